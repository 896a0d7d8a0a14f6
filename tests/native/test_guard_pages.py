"""The compiled kernels touch no memory beyond their tensors, each of which lies beside a page without access.

A fault ends the process; pytest-xdist then names the test.
"""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from panet_layers.ops.emam import native as emam
from panet_layers.ops.emam.tensors import Parameters as EmamParameters
from panet_layers.ops.scam import native as scam
from panet_layers.ops.scam.tensors import Parameters as ScamParameters
from panet_layers.ops.scam.tensors import Running
from tests.native.guarded import guarded, guarded_allocations

CHECKOUT = Path(__file__).parents[2]
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
LAYOUTS = ("contiguous", "channels_last", "transposed")
SIZES = st.integers(1, 40)


class Setting:
    """What both layers' tests draw: dtype, layout, the side with the guard, threads."""

    def __init__(self, draw):
        self.dtype = draw(st.sampled_from(DTYPES))
        self.layout = draw(st.sampled_from(LAYOUTS))
        self.end = draw(st.booleans())
        self.threads = draw(st.sampled_from([1, 2, 7]))

    def maps(self, *shape):
        x = torch.randn(shape).to(self.dtype)
        if self.layout == "channels_last":
            x = x.contiguous(memory_format=torch.channels_last)
        if self.layout == "transposed":
            x = x.mT.contiguous().mT
        return guarded(x, self.end)

    def share(self, draw):
        share = draw(st.sampled_from([None, 0.0, 0.3, 1.0]))
        return None if share is None else guarded(torch.full((1,), share), self.end)

    def parameters(self, *shapes):
        dtype = torch.float64 if self.dtype == torch.float64 else torch.float32
        return (guarded(torch.randn(shape, dtype=dtype), self.end) for shape in shapes)

    def __repr__(self):
        return f"{vars(self)}"


@pytest.mark.parametrize(("end", "beyond"), [(True, 1000), (False, -1)])
def test_the_page_is_guarded(end, beyond):
    """A process that reads the number beside the tensor is ended by the signal; one that reads the tensor is not."""
    code = f"""
import ctypes, torch
from tests.native.guarded import guarded
x = guarded(torch.ones(1000), {end})
for number in (0, 999, {beyond}):
    print(ctypes.c_float.from_address(x.data_ptr() + 4 * number).value, flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True)
    assert done.stdout.split() == ["1.0", "1.0"] and done.returncode == -signal.SIGSEGV, done.stderr


@settings(max_examples=200)
@given(st.data(), st.integers(1, 3), st.sampled_from([1, 2, 3, 8]), st.integers(1, 20), SIZES, SIZES)
def test_emam(use_threads, data, batch, groups, k, height, width):
    drawn = Setting(data.draw)
    use_threads(drawn.threads)
    x, grad = (drawn.maps(batch, groups * k, height, width) for _ in range(2))
    share = drawn.share(data.draw)
    params = EmamParameters(*drawn.parameters((k, k, 1, 1), (k,), (k, k, 3, 3), (k,), (k,), (k,)))
    with guarded_allocations(drawn.end):
        out, saved = emam.forward(x, params, groups, 1e-5, share)
        dx, gradients = emam.backward(grad, x, params, saved, groups, share)
    assert all(result.isfinite().all() for result in (out, dx, *gradients) if result is not None), drawn


@settings(max_examples=200)
@given(st.data(), st.integers(1, 3), st.integers(1, 70), SIZES, SIZES, st.sampled_from([None, "batch", "running"]))
def test_scam(use_threads, data, batch, channels, height, width, norm):
    drawn = Setting(data.draw)
    use_threads(drawn.threads)
    hidden, kernel, bias = data.draw(st.integers(1, 9)), data.draw(st.sampled_from([1, 3, 7])), data.draw(st.booleans())
    if norm == "batch" and batch * height * width == 1:
        return
    x, grad = (drawn.maps(batch, channels, height, width) for _ in range(2))
    biases = tuple(drawn.parameters((hidden,), (channels,))) if bias else (None, None)
    fc1, fc2, conv = drawn.parameters((hidden, channels), (channels, hidden), (1, 2, kernel, kernel))
    affine = tuple(drawn.parameters((1,), (1,))) if norm else (None, None)
    running = Running(*(t.abs() for t in drawn.parameters((1,), (1,)))) if norm == "running" else Running(None, None)
    share = drawn.share(data.draw)
    params = ScamParameters(fc1, biases[0], fc2, biases[1], conv, *affine)
    with guarded_allocations(drawn.end):
        out, saved = scam.forward(x, params, running, norm == "batch", 1e-5, share)
        dx, gradients = scam.backward(grad, x, params, saved, norm == "batch", 1e-5, share)
    assert all(result.isfinite().all() for result in (out, dx, *gradients) if result is not None), drawn
