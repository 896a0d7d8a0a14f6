"""The machine as a shared library: compiled by g++ once for each version of its sources, and loaded."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.emulator import encoding

SOURCES = Path(__file__).parent / "machine"
BUILD = Path(__file__).parents[2] / "build" / "emulator"
FLAGS = ["-std=c++17", "-O2", "-ftree-vectorize", "-march=native", "-ffp-contract=off", "-fno-math-errno"]
FLAGS += ["-shared", "-fPIC", "-Wall", "-Wno-unused-variable"]


def why_not() -> str | None:
    """Return why compiled kernels cannot be run here, or None."""
    return None if shutil.which("g++") else "running compiled kernels on a CPU needs g++, which is not installed"


@functools.cache
def loaded() -> ctypes.CDLL:
    """Return the library, compiled first where it is missing."""
    if reason := why_not():
        raise RuntimeError(reason)
    header = encoding.header()
    parts = [header, *(path.read_text() for path in sorted(SOURCES.iterdir())), *FLAGS]
    path = BUILD / f"machine-{hashlib.sha256(''.join(parts).encode()).hexdigest()[:16]}.so"
    if not path.exists():
        _compile(header, path)
    library = ctypes.CDLL(str(path))
    if library.instruction_bytes() != encoding.RECORD.itemsize:
        raise RuntimeError("struct Instruction of machine/state.h is not RECORD of encoding.py")
    return library


def _compile(header: str, path: Path) -> None:
    """Write the library at `path`, in one step: other processes may do the same at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        Path(folder, "generated.h").write_text(header)
        part = Path(folder, path.name)
        command = ["g++", *FLAGS, f"-I{folder}", "-o", str(part), str(SOURCES / "machine.cpp")]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"g++ could not compile the emulator:\n{done.stderr[:2000]}")
        os.replace(part, path)
