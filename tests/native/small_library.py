"""A copy of the files that build and load the kernels, as a package of its own, with small kernels in their place."""

from __future__ import annotations

import importlib.util
import itertools
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType

import pytest

from panet_layers.ops.native import build

THREADS = """
#include <omp.h>
#include <sys/syscall.h>
#include <unistd.h>
__attribute__((visibility("default"))) void thread_ids(int threads, int* ids) {
#pragma omp parallel num_threads(threads)
    ids[omp_get_thread_num()] = (int)syscall(SYS_gettid);
}
"""
LAST = '__attribute__((visibility("default"))) float last(const float* x, long n) { return x[n - 1]; }'
SOURCES = {"threads.c": THREADS, "last.c": LAST}
_numbers = itertools.count()


def needs_a_compiler() -> None:
    """Skip the test where nothing can be built."""
    if not build.instruction_sets():
        pytest.skip("the compiled kernels are for Linux")
    if build.compiler() is None:
        pytest.skip("needs a C compiler")


def copied(folder: Path, sources: dict[str, str] = SOURCES) -> Path:
    """Write the package `small` into `folder`, and return its path."""
    package = folder / "small"
    package.mkdir()
    for path in (*build.HERE.glob("*.py"), build.HERE / "version.c"):
        shutil.copy(path, package)
    for name, text in sources.items():
        (package / name).write_text(text, encoding="utf-8")
    return package


def imported(package: Path, module: str) -> ModuleType:
    """Return the module "build" or "library" of a copied package, under a name of its own in this process."""
    name = f"small_{next(_numbers)}"
    spec = importlib.util.spec_from_file_location(
        name, package / "__init__.py", submodule_search_locations=[str(package)]
    )
    sys.modules[name] = importlib.util.module_from_spec(spec)
    return importlib.import_module(f"{name}.{module}")


def built(package: Path) -> Path:
    """Build the libraries of a copied package beside its sources, and return its path."""
    results = imported(package, "build").build()
    assert not any(results.values()), results
    return package


def python(code: str, path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a new process that finds the modules in `path`; a variable that is "" is not set there."""
    variables = {**os.environ, "PYTHONPATH": f"{path}{os.pathsep}{Path(__file__).parents[2]}", **environment}
    variables = {name: value for name, value in variables.items() if value}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, env=variables, timeout=300
    )


def printed(code: str, path: Path, **environment: str) -> str:
    """Return what code prints in a new process."""
    done = python(code, path, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
