"""Fused layers within an error budget from float64: outputs, gradients, statistics; precisions, layouts, shapes."""

from functools import partial

import pytest
import torch
from torch import nn

from tests.cuda.on_device import LAYOUTS, SMALL, check_budget, exactly, placed
from tests.layers.cases import LOW_PRECISION, EmamCase, ScamCase, assert_same, run

# PANet's locations and timm's stages; the benchmark's gate checks them in float32 too.
BACKBONES = [
    EmamCase(8, 728, 8, 19, 19),
    EmamCase(2, 728, 8, 38, 38),
    EmamCase(8, 256, 8, 37, 37),
    EmamCase(2, 128, 8, 74, 74),
    EmamCase(2, 64, 8, 147, 147),
    EmamCase(8, 2048, 8, 10, 10),
    EmamCase(4, 256, 8, 56, 56),
    EmamCase(4, 256, 32, 56, 56),
    EmamCase(8, 1024, 32, 14, 14),
    ScamCase(8, 728, 16, 19, 19, norm="batch"),
    ScamCase(8, 2048, 16, 10, 10, mlp_bias=True, norm="batch"),
    ScamCase(2, 64, 16, 147, 147),
    ScamCase(4, 256, 16, 56, 56, norm="batch", training=False),
]
# No block size divides these.
ODD = [
    EmamCase(3, 130, 2, 31, 65),
    EmamCase(1, 17, 1, 257, 3),
    EmamCase(1, 17, 1, 3, 257),
    ScamCase(3, 130, 16, 31, 65, kernel_size=3),
]
LARGE = [(case, torch.bfloat16, layout) for case in [*BACKBONES, *ODD] for layout in LAYOUTS]
LARGE += [(case, torch.float32, layout) for case, layout in zip(ODD, [*LAYOUTS, *LAYOUTS])]
LAYOUT = pytest.mark.parametrize("layout", LAYOUTS)


def enough(device: torch.device) -> int:
    """The number of draws of a small layer. Its errors vary: one of six draws exceeded the budget of all."""
    return 24 if device.type == "cuda" else 12


@LAYOUT
@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=str)
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_error_budget_of_small_maps(case, dtype, layout, device):
    if device.type == "cpu" and dtype == torch.bfloat16:
        pytest.skip("the interpreter truncates where a GPU rounds to bfloat16")
    check_budget(partial(placed, case, device, dtype, layout), draws=enough(device))


@pytest.mark.cuda
@pytest.mark.parametrize(("case", "dtype", "layout"), LARGE, ids=str)
def test_error_budget_of_backbones(case, dtype, layout, gpu):
    check_budget(partial(placed, case, gpu, dtype, layout), draws=2)


@pytest.mark.cuda
@LAYOUT
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_float64(case, layout, gpu):
    """In float64 no rounding can hide an error. The kernels' own tests have more shapes."""
    layer, x, grad = placed(case, gpu, torch.float64, layout)
    assert_same(run(layer, x, grad), exactly(layer, x, grad))


@pytest.mark.parametrize("amp", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_autocast_after_a_convolution(case, amp, device):
    """A convolution under autocast returns half precision; the layer returns it too, and its gradients stay float32."""
    layer, x, _ = placed(case, device)
    convolution = nn.Conv2d(case.channels, case.channels, 3, padding=1, device=device)
    with torch.autocast(device.type, amp):
        features = convolution(x)
        out = layer(features)
    out.float().square().sum().backward()
    assert out.dtype == amp and all(p.grad.dtype == torch.float32 for p in layer.parameters())
    assert convolution.weight.grad.isfinite().all()
    if not (device.type == "cpu" and amp == torch.bfloat16):
        exact = exactly(layer, features.detach(), torch.ones_like(features))["output"]
        assert (out.double() - exact).norm() <= torch.finfo(amp).eps * exact.norm()


def test_one_layer_after_the_other(device):
    """EMAM then SCAM, as in PANet."""

    def draw(seed):
        (emam, x, grad), (scam, *_) = (placed(case, device, seed=seed) for case in SMALL[:2])
        return nn.Sequential(emam, scam), x, grad

    check_budget(draw, draws=enough(device))
