"""The share s of a model in half precision: its dtype is the model's, its gradient is summed in float32.

So under a loss scale it overflows where its own value is too large, to an infinity that a dynamic scale sees.
"""

import pytest
import torch

from panet_layers import EMAM, insert_attention
from panet_layers.insertion.share import shared
from tests.insertion.small_hosts import Returns, X

LARGEST = torch.finfo(torch.float16).max


def inputs(seed=0):
    torch.manual_seed(seed)
    layer = EMAM(16).half()
    x = torch.randn(4, 16, 20, 20).half()
    difference = layer(x).detach().double() - x.double()
    return layer, x, difference


def gradient(layer, x, incoming, dtype=torch.float16):
    share = torch.zeros(1, dtype=dtype, requires_grad=True)
    shared(x.clone().requires_grad_(), layer, share).backward(incoming)
    assert share.grad.dtype == dtype
    return share.grad.double()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_in_half_precision_has_shares_of_its_dtype(dtype):
    model = Returns(lambda x: x)
    insert_attention(model, "stage", EMAM, example_input=X)
    assert {parameter.dtype for parameter in model.to(dtype).parameters()} == {dtype}


@pytest.mark.parametrize("scale", [1.0, 2.0**8, 2.0**16])
def test_terms_whose_sum_fits_may_be_larger_than_float16(scale):
    """They cancel: the sum of their absolute values is many times the largest number of float16."""
    layer, x, difference = inputs()
    incoming = (difference.sign() * scale / 256).half()
    incoming[1::2] *= -1  # the samples' terms nearly cancel
    terms = incoming.double() * difference
    exact = terms.sum()
    assert exact.abs() < LARGEST and (scale < 2**16 or terms.abs().sum() > 10 * LARGEST)
    rounding = torch.finfo(torch.float16).eps * exact.abs() + 1e-6 * terms.abs().sum()
    assert (gradient(layer, x, incoming) - exact).abs() <= rounding


def test_a_gradient_that_does_not_fit_is_infinite_and_in_float32_finite():
    layer, x, difference = inputs()
    incoming = (difference.sign() * 2**10).half()
    exact = (incoming.double() * difference).sum()
    assert exact > 10 * LARGEST and incoming.isfinite().all()
    assert gradient(layer, x, incoming) == float("inf")
    torch.testing.assert_close(gradient(layer, x, incoming, torch.float32), exact.view(1), rtol=1e-5, atol=0)


def test_under_autocast_the_share_is_float32_and_no_step_is_lost_at_the_default_scale():
    model = Returns(lambda x: x)
    insert_attention(model, "stage", EMAM, example_input=X)
    optimiser = torch.optim.SGD(model.parameters(), 1e-3)
    share = model.stage.inserted_attention[0].share
    scaler, before = torch.amp.GradScaler("cpu"), share.item()
    with torch.autocast("cpu", torch.float16):
        loss = model(X).float().square().mean()
    scaler.scale(loss).backward()
    assert share.dtype == share.grad.dtype == torch.float32
    scaler.step(optimiser)
    scaler.update()
    assert scaler.get_scale() == 65536 and share.item() != before
