"""GPU memory of a training step, from the caching allocator's own counts."""

from typing import NamedTuple

import pytest
import torch

from panet_layers import EMAM, SCAM
from tests.cuda.on_device import LAYOUTS

SHAPES = [(32, 728, 19, 19), (8, 64, 147, 147), (32, 2048, 10, 10)]
# In half precision the float32 statistics weigh most: it gets every shape. Other test files compile the same code.
PLACED = [(shape, torch.bfloat16, layout) for shape in SHAPES for layout in LAYOUTS]
PLACED += [(SHAPES[0], torch.float32, "contiguous"), (SHAPES[1], torch.float32, "channels_last")]


class Step(NamedTuple):
    """Bytes as multiples of the input's, beyond input, parameters and incoming gradient."""

    kept: float  # between forward and backward, the output included
    extra: float  # at most at any moment, beyond the output and the gradient of the input


def measure(layer, x):
    grad, size = torch.randn_like(x), x.numel() * x.element_size()
    inputs = [x.requires_grad_(), *layer.parameters()]
    torch.autograd.grad(layer(x), inputs, grad)  # compiles the kernels, fills the caches of cuBLAS and cuDNN
    torch.cuda.synchronize()
    start = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    out = layer(x)
    kept = torch.cuda.memory_allocated() - start
    forward_peak = torch.cuda.max_memory_allocated() - start
    torch.cuda.reset_peak_memory_stats()
    gradients = torch.autograd.grad(out, inputs, grad)
    backward_peak = torch.cuda.max_memory_allocated() - start
    del gradients
    return Step(kept / size, max(forward_peak - size, backward_peak - 2 * size) / size)


@pytest.mark.cuda
@pytest.mark.parametrize(("shape", "dtype", "layout"), PLACED, ids=str)
@pytest.mark.parametrize("build", [EMAM, SCAM])
def test_training_needs_little(build, shape, dtype, layout, gpu):
    """What autograd keeps beside input and output: at most 1.25 inputs; at its peak, far less than the reference."""
    fused, reference = (
        measure(
            build(shape[1], device=gpu, dtype=dtype, backend=backend),
            torch.randn(shape, device=gpu, dtype=dtype).contiguous(memory_format=LAYOUTS[layout]),
        )
        for backend in ("triton", "reference")
    )
    assert fused.kept - 1 <= 1.25
    assert fused.extra < reference.extra / 2


@pytest.mark.cuda
def test_the_reference_needs_much(gpu):
    """The same measurement shows what the plain formulas keep."""
    step = measure(EMAM(64, device=gpu, backend="reference"), torch.randn((8, 64, 74, 74), device=gpu))
    assert step.extra > 3 and step.kept - 1 > 3
