"""The kernels' suites on compiled code: a share of them for CI, the whole by hand (`-m long`)."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from panet_layers.ops.availability import LEAST_TRITON
from tests.emulator import library

pytest.importorskip("triton", minversion=".".join(map(str, LEAST_TRITON)))
pytestmark = pytest.mark.skipif(library.why_not() is not None, reason=str(library.why_not()))

ROOT = Path(__file__).parents[2]


def passed(*arguments):
    """How many tests passed in another process: in this one the kernels are decorated for the interpreter."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return int(re.search(r"(\d+) passed", done.stdout)[1])


@pytest.mark.slow
@pytest.mark.parametrize("sm", [80, 90])
def test_the_share_of_ci(sm):
    assert passed(f"--emulate={sm}", "-m", "emulated and not long", "tests/emulator", "tests/kernels") >= 10


@pytest.mark.long
@pytest.mark.parametrize("how", ["80,noisy,reverse", "90", "90,noisy,reverse"])
def test_all_of_the_kernels_suites(how):
    assert passed(f"--emulate={how}", "-m", "not cuda and not slow and not long", "tests/kernels") >= 300


@pytest.mark.long
@pytest.mark.parametrize("how", ["80,noisy", "90,noisy,reverse"])
def test_the_sweep(how):
    assert passed(f"--emulate={how}", "-m", "emulated and long", "tests/emulator") >= 200
