"""The compiled kernels touch no memory outside their tensors: each lies beside a page without access.

A fault ends the process; pytest-xdist then reports the test that did it.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from panet_layers.ops.emam import native as emam
from panet_layers.ops.emam.tensors import Parameters as EmamParameters
from tests.native.guarded import guarded, guarded_allocations

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
SIZES = st.integers(1, 40)
pytestmark = pytest.mark.native


def draw_map(shape, dtype, layout, end):
    x = torch.randn(shape, dtype=torch.float64).to(dtype)
    if layout == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    if layout == "transposed":
        x = x.mT.contiguous().mT
    return guarded(x, end)


def draw_parameters(shapes, dtype, end):
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return (guarded(torch.randn(shape, dtype=wide), end) for shape in shapes)


@settings(max_examples=150)
@given(
    batch=st.integers(1, 3),
    groups=st.sampled_from([1, 2, 3, 8]),
    width=st.integers(1, 20),
    size=st.tuples(SIZES, SIZES),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(["contiguous", "channels_last", "transposed"]),
    end=st.booleans(),
    threads=st.sampled_from([1, 2, 7]),
)
def test_emam(batch, groups, width, size, dtype, layout, end, threads, monkeypatch_threads):
    monkeypatch_threads(threads)
    x, grad = (draw_map((batch, groups * width, *size), dtype, layout, end) for _ in range(2))
    k = width
    params = EmamParameters(*draw_parameters([(k, k, 1, 1), (k,), (k, k, 3, 3), (k,), (k,), (k,)], dtype, end))
    with guarded_allocations(end):
        out, saved = emam.forward(x, params, groups, 1e-5)
        dx, gradients = emam.backward(grad, x, params, saved, groups)
    for result in (out, dx, *gradients):
        assert result.isfinite().all()
