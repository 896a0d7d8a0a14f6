"""Settings of all tests, and what the layers' tests share as fixtures."""

import os
import re

if "PYTEST_XDIST_WORKER" in os.environ:  # one process for each core: more threads would be slower
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.devices import on_gpu, on_interpreter

# The same examples every time, on machines of any speed.
settings.register_profile("repeatable", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("repeatable")


def pytest_addoption(parser):
    group = parser.getgroup("fuzz", "the fuzz tests of the layers, tests/fuzz")
    group.addoption("--fuzz", type=float, default=0.02, metavar="SHARE", help="of all examples; 1 for a release")
    group.addoption("--fuzz-seed", type=int, default=0, metavar="N", help="other examples than those of CI")


def pytest_terminal_summary(terminalreporter):
    """Say what the fuzz tests drew: without the numbers, a pass says little."""
    reports = [report for key in ("passed", "failed") for report in terminalreporter.stats.get(key, [])]
    lines = [line for report in reports for name, line in report.user_properties if name == "fuzz"]
    for line in sorted(lines):
        terminalreporter.write_line(f"fuzz: {line}")


def pytest_configure(config):
    """Kernels run on CPU tensors, by Triton's interpreter, unless `pytest -m cuda` runs them on a GPU.

    A process does one of the two: triton decides when a kernel is decorated.
    """
    wants_gpu = "cuda" in re.sub(r"not\s+cuda", "", config.option.markexpr)
    os.environ["TRITON_INTERPRET"] = "0" if wants_gpu else "1"


def pytest_collection_modifyitems(config, items):
    """On a GPU, leave out the cases for the interpreter: each would compile kernels, which takes half a second."""
    left_out = [item for item in items if item.get_closest_marker("interpreted") and item.get_closest_marker("cuda")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in set(left_out)]


@pytest.fixture(scope="session", params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request):
    """Where fused kernels run: on CPU tensors through the interpreter, or on a GPU."""
    return on_gpu() if request.param == "cuda" else on_interpreter()


@pytest.fixture
def gpu():
    """A GPU, for tests that need one; they have the mark `cuda`."""
    return on_gpu()


@pytest.fixture(scope="module")
def by_hand_at_any_size():
    """Let the collapsed backend run its hand-written derivatives on small inputs too, where the formulas are faster."""
    from panet_layers import functional

    with pytest.MonkeyPatch.context() as patch:
        nothing = functional.Small(inference=-1, training=-1)
        patch.setattr(functional, "SMALL_EMAM", nothing)
        patch.setattr(functional, "SMALL_SCAM", nothing)
        yield


@pytest.fixture
def fresh_compiler():
    """An empty cache of torch.compile, before the test and after it."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
