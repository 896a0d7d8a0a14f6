"""Finds and loads the compiled kernels: the library for this processor, by ctypes, at the first use of a process."""

from __future__ import annotations

import ctypes
import os
import warnings
from pathlib import Path
from typing import NamedTuple

import torch

from .build import HERE, abi, instruction_sets, library_path

FORCED_ISA = "PANET_LAYERS_ISA"
OTHER_FOLDER = "PANET_LAYERS_LIBRARIES"
BUILD = "python -m panet_layers.ops.native"
VECTOR_BYTES = {"base": 16, "avx2": 32, "avx512": 64}  # as in vectors.h
BEYOND_BASE = {"AVX2": ("avx2",), "AVX512": ("avx2", "avx512")}  # what torch finds -> what such a processor runs


class Loaded(NamedTuple):
    """A library, and the instruction set that it was compiled for."""

    kernels: ctypes.CDLL
    isa: str


_found: dict[str, Loaded | str] = {}  # what a process found: once something is in it, that stays


def library() -> ctypes.CDLL:
    """Return the library of kernels. Raise RuntimeError with the reason if none can be loaded."""
    return _loaded().kernels


def isa() -> str:
    """Return the instruction set of the library: "base", "avx2" or "avx512". Raise as `library` does."""
    return _loaded().isa


def vector_bytes() -> int:
    """Return the size of the library's vectors. Raise as `library` does."""
    return VECTOR_BYTES[_loaded().isa]


def why_not() -> str | None:
    """Return why there is no library, and what to do; None where there is one."""
    found = _find()
    return found if isinstance(found, str) else None


def usable() -> bool:
    """Return whether there is a library. Raise RuntimeError where the environment names one that cannot be used."""
    found = _find()
    if not isinstance(found, str):
        return True
    if os.environ.get(FORCED_ISA):
        raise RuntimeError(found)
    return False


def _loaded() -> Loaded:
    if isinstance(found := _find(), str):
        raise RuntimeError(f"the compiled kernels cannot run: {found}")
    return found


def _find() -> Loaded | str:
    # No lock, which a fork could copy while it is held: threads that come at the same time get the same one.
    return _found.get("library") or _found.setdefault("library", _load())


def _load() -> Loaded | str:
    """Return the library for this processor, or, in one line, why none can be loaded."""
    if not instruction_sets():
        return "the compiled kernels are for Linux"
    folder = Path(os.environ.get(OTHER_FOLDER) or HERE)
    built = [name for name in instruction_sets() if library_path(folder, name).is_file()]
    if not built:
        return f"no library is built in {folder}; with a C compiler, such as gcc, run: {BUILD}"
    runs = ("base", *BEYOND_BASE.get(torch.backends.cpu.get_cpu_capability(), ()))
    possible = [name for name in built if name in runs]
    forced = os.environ.get(FORCED_ISA)
    if forced and forced not in possible:
        reason = _why_not_forced(forced, runs)
        return f"environment variable {FORCED_ISA} is {forced!r}, {reason}; possible: {', '.join(possible) or 'none'}"
    if not possible:
        return f"{folder} has libraries for {', '.join(built)}, and this processor runs {', '.join(runs)}; run: {BUILD}"
    name = forced or possible[-1]
    found = _open(library_path(folder, name), name)
    if isinstance(found, str):  # it was built here to be used, and `auto` goes on without it
        warnings.warn(f"the compiled kernels are not used: {found}", stacklevel=2)
    return found


def _why_not_forced(name: str, runs: tuple[str, ...]) -> str:
    if name not in instruction_sets():
        return "which is no instruction set of this machine"
    return "which is not built" if name in runs else "which this processor cannot run"


def _open(path: Path, name: str) -> Loaded | str:
    try:
        kernels = ctypes.CDLL(str(path))  # binds all symbols now: one that is missing raises here, not at a call
    except OSError as error:
        return f"its library cannot be loaded: {error}"
    number = getattr(kernels, "panet_layers_abi", None)
    if number is None or number() != abi():
        return f"{path} was built from other sources; run: {BUILD}"
    return Loaded(kernels, name)
