"""The tests of the compiled kernels again, by the library of each instruction set that `auto` would not take here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from panet_layers.ops.native import build, library

CHECKOUT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("isa", build.instruction_sets())
def test_kernels_of_another_instruction_set(isa):
    if reason := library.why_not():
        pytest.skip(f"no compiled kernels: {reason}")
    if isa == library.isa():
        pytest.skip(f"{isa} is what the other tests run")
    if isa not in ("base", *library.BEYOND_BASE.get(torch.backends.cpu.get_cpu_capability(), ())):
        pytest.skip(f"this processor cannot run {isa}")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/native/test_kernels.py"]
    # torch's own checks of operators compile code, which is the same for all libraries.
    done = subprocess.run(
        [*command, "-k", "not opcheck"], cwd=CHECKOUT, env=os.environ | {library.FORCED_ISA: isa},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-3000:] + done.stderr[-3000:]
