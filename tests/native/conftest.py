"""What the tests of the compiled kernels share: the kernels, or a skip with the reason; numbers of threads."""

import pytest

from panet_layers.ops.emam import native as emam
from panet_layers.ops.native import library
from panet_layers.ops.scam import native as scam


@pytest.fixture(scope="module")
def kernels():
    """The library of compiled kernels."""
    if reason := library.why_not():
        pytest.skip(f"no compiled kernels: {reason}")
    return library.library()


@pytest.fixture(scope="module")
def use_threads(kernels):
    """A function that sets the number of threads of every call, whatever its size."""
    with pytest.MonkeyPatch.context() as patch:

        def use(count):
            for layer in (emam, scam):
                patch.setattr(layer, "threads_for", lambda x, small: count)

        yield use


@pytest.fixture(scope="module", params=[1, 2, 7])
def threads(request, use_threads):
    """The number of threads of every call; at 7, which is more than most cases have instances, maps are cut."""
    use_threads(request.param)
    return request.param
