"""compute-sanitizer on a small run: no access out of bounds, none unsynchronised."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SMALL_RUN = Path(__file__).resolve().parent / "small_run.py"


def small_run(device, *tool):
    # Without the caching allocator each tensor is an allocation of its own, whose end the tool can see.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    command = [*tool, sys.executable, str(SMALL_RUN), device.type]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=540)


@pytest.mark.cuda
@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_sanitizer(tool, gpu):
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    if sanitizer is None:
        pytest.skip("compute-sanitizer is not installed")
    first = small_run(gpu)  # compiles and caches the kernels at full speed
    assert first.stdout == "ran\n", first.stderr
    # Not what the CUDA API answers: a library that asks for an entry point the driver lacks is no error of a kernel.
    options = ("--tool", tool, "--report-api-errors", "no", "--error-exitcode", "9")
    done = small_run(gpu, sanitizer, *options)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "ran" in done.stdout


def test_the_small_run(device):
    if device.type == "cuda":
        pytest.skip("the sanitizer's test runs it")
    done = small_run(device)
    assert done.stdout == "ran\n", done.stderr
