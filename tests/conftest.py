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
    group = parser.getgroup("fuzz", "the fuzz tests, tests/fuzz")
    group.addoption("--fuzz", type=float, default=0.02, metavar="SHARE", help="of all examples; 1 for a release")
    group.addoption("--fuzz-seed", type=int, default=0, metavar="N", help="other examples than those of CI")
    group = parser.getgroup("emulate", "compiled GPU kernels on a CPU, tests/emulator")
    group.addoption(
        "--emulate", metavar="SM", help="run the kernels' tests as compiled for 80, 90, ... ; 90,noisy,reverse"
    )


def pytest_terminal_summary(terminalreporter):
    """Say what the fuzz tests drew: without the numbers, a pass says little."""
    reports = [report for key in ("passed", "failed") for report in terminalreporter.stats.get(key, [])]
    lines = [line for report in reports for name, line in report.user_properties if name == "fuzz"]
    for line in sorted(lines):
        terminalreporter.write_line(f"fuzz: {line}")


def pytest_configure(config):
    """Kernels run on CPU tensors, by Triton's interpreter, unless `pytest -m cuda` runs them on a GPU or `--emulate`
    runs them compiled.

    A process does one of these: triton decides when a kernel is decorated.
    """
    wants_gpu = "cuda" in re.sub(r"not\s+cuda", "", config.option.markexpr)
    os.environ["TRITON_INTERPRET"] = "0" if wants_gpu or config.option.emulate else "1"


def pytest_collection_modifyitems(config, items):
    """On a GPU, leave out the cases for the interpreter: each would compile kernels, which takes half a second.

    Without `--emulate`, leave out the tests of what only compiled code can show.
    """
    left_out = {item for item in items if item.get_closest_marker("interpreted") and item.get_closest_marker("cuda")}
    if not config.option.emulate:
        left_out |= {item for item in items if "emulation" in item.fixturenames}
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session", params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request):
    """Where fused kernels run: on CPU tensors, through the interpreter or compiled, or on a GPU."""
    if request.config.option.emulate:
        request.getfixturevalue("emulation")
    return on_gpu() if request.param == "cuda" else on_interpreter()


@pytest.fixture(scope="session")
def emulation(request):
    """What is recorded of the kernels that run on CPU tensors as compiled code. Only with `--emulate`."""
    from tests.emulator import library
    from tests.emulator.emulation import emulated
    from tests.emulator.running import Options

    if reason := library.why_not():
        pytest.skip(reason)
    sm, *how = request.config.option.emulate.split(",")
    with emulated(int(sm), Options(**dict.fromkeys(how, True))) as record:
        yield record


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
