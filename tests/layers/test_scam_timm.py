"""SCAM against timm's CbamModule: the same state_dict, outputs, gradients and running statistics."""

import pytest
import torch

from panet_layers import SCAM, ChannelAttention, SpatialAttention
from tests.layers.cases import BACKENDS, assert_same, poisoned_memory, randomised, run
from tests.layers.published import in_our_terms, ours, timms

pytestmark = pytest.mark.usefixtures("by_hand_at_any_size")

SHAPES = [(2, 32, 7, 5, 4), (3, 16, 8, 8, 16), (1, 64, 1, 9, 8), (2, 8, 9, 1, 8), (1, 48, 19, 19, 3)]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("options", [{}, {"mlp_bias": True}, {"kernel": 3}], ids=["default", "mlp_bias", "kernel3"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_cbam_module(shape, options, backend, training):
    *size, reduction = shape
    kernel, bias = options.get("kernel", 7), options.get("mlp_bias", False)
    module = timms(size[1], reduction, spatial_kernel_size=kernel, mlp_bias=bias).train(training)
    layer = ours(module, size[1], reduction, kernel_size=kernel, mlp_bias=bias, backend=backend).train(training)
    x, grad = torch.randn(2, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    expected = run(module, x, grad)
    with poisoned_memory():
        actual = run(layer, x, grad)

    assert_same(actual, in_our_terms(expected))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_the_halves_match_timms_halves(training):
    module = timms(16, 4).train(training)
    channel = ChannelAttention(16, 4, dtype=torch.float64)
    channel.load_state_dict(module.channel.state_dict())
    spatial = SpatialAttention(norm="batch", dtype=torch.float64).train(training)
    spatial.load_state_dict(module.spatial.state_dict())
    x = torch.randn(2, 16, 6, 5, dtype=torch.float64)

    assert_same({"output": channel(x)}, {"output": module.channel(x)})
    assert_same({"output": spatial(x)}, {"output": module.spatial(x)})
    assert_same({"mean": spatial.bn.running_mean}, {"mean": module.spatial.conv.bn.running_mean})


def test_the_halves_in_a_row_are_scam():
    layer = randomised(SCAM(16, 4, spatial_norm="batch", dtype=torch.float64), 0).eval()
    x = torch.randn(2, 16, 6, 5, dtype=torch.float64)
    assert_same({"output": layer.spatial(layer.channel(x))}, {"output": layer(x)})
