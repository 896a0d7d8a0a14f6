"""Where the GPU's tests run: on a GPU, and slowly on the CPU where that makes sense, to test the tests."""

import pytest

from tests.devices import on_gpu, on_interpreter


@pytest.fixture(
    scope="session",
    params=[pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=pytest.mark.cuda)],
)
def device(request):
    """A GPU; or CPU tensors through Triton's interpreter."""
    return on_gpu() if request.param == "cuda" else on_interpreter()
