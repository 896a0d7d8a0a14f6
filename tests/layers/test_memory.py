"""Memory of a training step, from the profiler's record of every allocation and release."""

import os
from typing import NamedTuple

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler prints that it looks for a GPU

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from panet_layers import EMAM, SCAM
from tests.layers.cases import HAND_WRITTEN


class Step(NamedTuple):
    """Bytes as multiples of the input's, beyond input, parameters and incoming gradient."""

    kept: float  # between forward and backward, the output included
    extra: float  # at most at any moment, beyond the output and the gradient of the input


def recorded(work):
    """What `work` returns, the largest number of bytes live at a time in it, and the number live at its end."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = work()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return result, peak, live


def measure(layer, shape, dtype=torch.float32):
    x = torch.randn(shape, dtype=dtype).requires_grad_()
    grad = torch.randn_like(x)
    inputs = [x, *layer.parameters()]
    torch.autograd.grad(layer(x), inputs, grad)  # fills caches
    size = x.numel() * x.element_size()

    out, forward_peak, kept = recorded(lambda: layer(x))
    _, backward_peak, _ = recorded(lambda: torch.autograd.grad(out, inputs, grad))
    extra = max(forward_peak - size, kept + backward_peak - 2 * size)
    return Step(kept / size, extra / size)


SHAPES = [(8, 728, 19, 19), (4, 64, 74, 74), (2, 64, 147, 147)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("backend", HAND_WRITTEN)
def test_emam_needs_little_memory(shape, backend):
    step = measure(EMAM(shape[1], backend=backend), shape)
    assert step.extra <= 1.5
    assert step.kept <= 1.5


def test_half_precision_needs_far_less_than_the_reference():
    """Both work in float32, so the numbers are larger than those of a float32 input."""
    shape, dtype = (4, 64, 147, 147), torch.bfloat16
    collapsed, reference = (measure(EMAM(64, backend=b, dtype=dtype), shape, dtype) for b in ("collapsed", "reference"))
    assert collapsed.extra < reference.extra / 4
    assert collapsed.kept <= 1.5


def test_the_reference_needs_much():
    """The same measurement shows what the plain formulas keep: more than four times the input."""
    step = measure(EMAM(64, backend="reference"), (4, 64, 74, 74))
    assert step.extra > 4 and step.kept > 4


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("backend", HAND_WRITTEN)
def test_scam_needs_little_memory(shape, backend):
    step = measure(SCAM(shape[1], spatial_norm="batch", backend=backend), shape)
    assert step.extra <= 0.5
    assert step.kept <= 1.2
