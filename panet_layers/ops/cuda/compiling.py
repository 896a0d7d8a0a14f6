"""CUDA C source to machine code, by NVRTC: NVIDIA's compiler as a library."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from ...compatibility import called_not_traced
from . import code_cache
from .bindings import Unusable, call, check, library

OPTIONS = ("--std=c++17", "--extra-device-vectorization")


def compiled(source: str, defines: Sequence[tuple[str, int]], target: str) -> bytes:
    """Return the code of a source file for a target: machine code for "sm_90", PTX for "compute_90"."""
    text = joined(source)
    options = (f"--gpu-architecture={target}", *OPTIONS, *(f"-D{name}={value}" for name, value in defines))
    key = hashlib.sha256(repr((text, options, version())).encode()).hexdigest()
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
        return joined(str(beside if beside.exists() else Path(__file__).parent / found[1]))

    return re.sub(r'^#include "([^"]+)"$', included, Path(source).read_text(), flags=re.M)


@functools.cache
def version() -> tuple[int, ...]:
    """Return NVRTC's version. Raise Unusable where it cannot be loaded."""
    return tuple(call("nvrtcVersion"))


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
    known, capability = call("nvrtcGetSupportedArchs"), 10 * major + minor
    older = max((a for a in known if a < capability), default=capability)  # with none, NVRTC refuses to compile
    return f"sm_{capability}" if capability in known else f"compute_{older}"


def _compile(name: str, text: str, options: Sequence[str]) -> bytes:
    program = call("nvrtcCreateProgram", text.encode(), name.encode(), 0, [], [])
    (status,) = library("nvrtc").nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
    if status.name == "NVRTC_ERROR_COMPILATION":
        log = _result("ProgramLog", program)[:-1].decode()
        raise Unusable(f"NVRTC {version()} does not compile {name} with {' '.join(options)}: {log}")
    check(status, f"compiling {name}")
    code = _result("PTX" if "=compute_" in options[0] else "CUBIN", program)
    call("nvrtcDestroyProgram", program)
    return code


def _result(kind: str, program: object) -> bytes:
    content = bytearray(call(f"nvrtcGet{kind}Size", program))
    call(f"nvrtcGet{kind}", program, content)
    return bytes(content)
