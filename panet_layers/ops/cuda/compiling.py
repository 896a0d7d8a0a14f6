"""CUDA C source to machine code, by NVRTC: NVIDIA's compiler as a library, which torch's CUDA wheels bring."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...compatibility import called_not_traced
from . import code_cache

SHARED_SOURCES = Path(__file__).parent
OPTIONS = ("--std=c++17", "--extra-device-vectorization")


class Unusable(RuntimeError):
    """CUDA C cannot be compiled, loaded or launched here; the message says why."""


def compiled(source: str, defines: Sequence[tuple[str, int]], target: str) -> bytes:
    """Return the code of a source file for a target: machine code for "sm_90", PTX for "compute_90"."""
    text = joined(source)
    options = (f"--gpu-architecture={target}", *OPTIONS, *(f"-D{name}={value}" for name, value in defines))
    parts = (text, *options, *map(str, version()))
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    code = code_cache.load(key)
    if code is None:
        code = _compile(Path(source).name, text, options)
        code_cache.store(key, code)
    return code


@functools.cache
def joined(source: str) -> str:
    """Return the source with each `#include "name"` replaced by the file: beside the source, or in this folder."""

    def included(found: re.Match[str]) -> str:
        beside = Path(source).parent / found[1]
        return joined(str(beside if beside.exists() else SHARED_SOURCES / found[1]))

    return re.sub(r'^#include "([^"]+)"$', included, Path(source).read_text(), flags=re.M)


@functools.cache
def version() -> tuple[int, int]:
    """Return NVRTC's version. Raise Unusable where it cannot be loaded."""
    try:
        _, major, minor = _nvrtc().nvrtcVersion()
    except Unusable:
        raise
    except Exception as error:  # each release of cuda-bindings has another one for a library that is not found
        raise Unusable(f"NVRTC, which compiles CUDA C, cannot be loaded: {error}") from error
    return major, minor


@called_not_traced
def why_not() -> str | None:
    """Return why CUDA C cannot be compiled here; None if it can."""
    try:
        version()
    except Unusable as error:
        return str(error)
    return None


@functools.cache
def target(major: int, minor: int) -> str:
    """Return what to compile for on this compute capability: PTX, for the driver to finish, where NVRTC is older."""
    (known,) = _checked(_nvrtc().nvrtcGetSupportedArchs())
    capability = 10 * major + minor
    return f"sm_{capability}" if capability in known else f"compute_{max(a for a in known if a < capability)}"


def _nvrtc() -> Any:
    try:
        from cuda.bindings import nvrtc
    except ImportError as error:
        raise Unusable("the package cuda-bindings is not installed (pip install cuda-bindings)") from error
    return nvrtc


def _compile(name: str, text: str, options: Sequence[str]) -> bytes:
    nvrtc = _nvrtc()
    (program,) = _checked(nvrtc.nvrtcCreateProgram(text.encode(), name.encode(), 0, [], []))
    (result,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
    if result.name == "NVRTC_ERROR_COMPILATION":
        log = bytearray(*_checked(nvrtc.nvrtcGetProgramLogSize(program)))
        _checked(nvrtc.nvrtcGetProgramLog(program, log))
        raise Unusable(f"NVRTC {version()} does not compile {name} with {' '.join(options)}: {log[:-1].decode()}")
    _checked((result,))
    kind = "PTX" if "=compute_" in options[0] else "CUBIN"
    code = bytearray(*_checked(getattr(nvrtc, f"nvrtcGet{kind}Size")(program)))
    _checked(getattr(nvrtc, f"nvrtcGet{kind}")(program, code))
    _checked(nvrtc.nvrtcDestroyProgram(program))
    return bytes(code)


def _checked(results: tuple) -> tuple:
    if results[0].value:
        error = MemoryError if results[0].name == "NVRTC_ERROR_OUT_OF_MEMORY" else Unusable
        raise error(f"NVRTC failed: {results[0].name}")
    return results[1:]
