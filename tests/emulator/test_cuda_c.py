"""CUDA C goes through the package's own launcher to the emulator: arguments, shared memory and mistakes."""

import pytest
import torch

from panet_layers.ops.cuda import launching
from panet_layers.ops.cuda.launching import Kernel, launch
from tests.devices import why_no_nvrtc

pytestmark = pytest.mark.skipif(why_no_nvrtc() is not None, reason=str(why_no_nvrtc()))

SOURCE = """// A kernel for the test of the launcher.
#include "elements.cuh"
KERNEL scaled(const Element* x, Element* out, int count, float by, int shift) {
    Element* kept = (Element*)shared_memory;
    copy_elements<THREADS>(kept, x + shift, count, threadIdx.x);
    copies_arrived();
    __syncthreads();
    for (int i = threadIdx.x; i < count; i += THREADS)
        out[i] = element(number(kept[misalignment(x + shift) + i]) * by);
}
"""
DTYPES = {0: torch.bfloat16, 1: torch.float16, 2: torch.float32}


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "scaled.cu"
    path.write_text(SOURCE)
    return str(path)


@pytest.mark.emulated
@pytest.mark.parametrize("number, dtype", DTYPES.items())
@pytest.mark.parametrize("count, shift", [(1, 0), (1000, 3), (61, 8), (2, 5)])
def test_a_launch_computes_what_the_kernel_says(source, number, dtype, count, shift, emulation):
    x = torch.randn(count + shift).to(dtype)
    out = torch.full((count,), torch.nan, dtype=dtype)
    kernel = Kernel(source, "scaled", (("DT", number), ("THREADS", 64)))
    launch(kernel, 1, 64, (count + 16) * x.element_size(), x, out, count, 1.5, shift)
    assert torch.equal(out, (x[shift:].float() * 1.5).to(dtype))


@pytest.mark.emulated
def test_arguments_and_shared_memory_that_a_gpu_would_not_take_are_refused(source, emulation):
    x = torch.ones(8)
    kernel = Kernel(source, "scaled", (("DT", 2), ("THREADS", 64)))
    with pytest.raises(RuntimeError, match="has parameters"):
        launch(kernel, 1, 64, 1024, x, x, 8, 1.0, x)  # the last is of 64 bits
    with pytest.raises(RuntimeError, match="shared memory"):
        launch(kernel, 1, 64, launching.machine.limits().shared_bytes + 1, x, x, 8, 1.0, 0)
