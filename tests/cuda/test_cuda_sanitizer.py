"""compute-sanitizer on a small run: no access of our kernels out of bounds, none unsynchronised."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.cuda.on_device import LARGER_EMAM, SMALL, placed
from tests.layers.cases import run

ROOT = Path(__file__).parents[2]


def small_run(device, *tool):
    # Without the caching allocator each tensor is a separate allocation, whose end the tool can see.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    command = [*tool, sys.executable, "-m", "tests.cuda.small_run", device.type]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=540)


def names_of_kernels():
    """Of all Triton functions in the package, including those that kernels call."""
    pytest.importorskip("triton")
    from triton.runtime.jit import KernelInterface

    import panet_layers.ops.emam.triton
    import panet_layers.ops.scam.triton  # noqa: F401

    modules = [module for name, module in sys.modules.items() if name.startswith("panet_layers.ops.")]
    return sorted({f.__name__ for module in modules for f in vars(module).values() if isinstance(f, KernelInterface)})


@pytest.mark.cuda
@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_sanitizer(tool, gpu):
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    if sanitizer is None:
        pytest.skip("compute-sanitizer is not installed")
    first = small_run(gpu)  # compiles and caches the kernels at full speed
    assert first.stdout == "ran\n", first.stderr
    # API errors do not count: a library may ask the driver for a missing entry point, which is no error of a kernel.
    options = ["--tool", tool, "--report-api-errors", "no", "--error-exitcode", "9"]
    for name in names_of_kernels():  # and none of cuBLAS's or torch's
        options += ["--kernel-name", f"kne={name}"]
    done = small_run(gpu, sanitizer, *options)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "ran" in done.stdout


def test_the_sanitizer_watches_every_kernel(device, monkeypatch):
    """By the names of the launches."""
    if device.type == "cuda":
        pytest.skip("the interpreter reports the launches")
    from triton.runtime.interpreter import GridExecutor

    launched, launch = set(), GridExecutor.__call__
    record = lambda self, *a, **k: [launched.add(self.fn.__name__), launch(self, *a, **k)]  # noqa: E731
    monkeypatch.setattr(GridExecutor, "__call__", record)
    for case in (*SMALL[:2], LARGER_EMAM):
        run(*placed(case, device, torch.float32))
    assert launched <= set(names_of_kernels())
    passes = ("pool", "fold_means", "moments", "attend", "delta", "contract", "input_gradient")
    assert launched >= {f"_{name}_kernel" for name in passes}


def test_the_small_run(device):
    if device.type == "cuda":
        pytest.skip("the sanitizer's test runs it")
    done = small_run(device)
    assert done.stdout == "ran\n", done.stderr
