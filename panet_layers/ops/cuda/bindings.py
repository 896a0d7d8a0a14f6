"""NVIDIA's driver and its compiler NVRTC, through the package cuda-bindings, which torch's CUDA wheels bring."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import torch

LIBRARIES = {"driver": "cuDriverGetVersion", "nvrtc": "nvrtcVersion"}  # with a function that each answers anywhere
OUT_OF_MEMORY = {"CUDA_ERROR_OUT_OF_MEMORY": torch.OutOfMemoryError, "NVRTC_ERROR_OUT_OF_MEMORY": MemoryError}


class Unusable(RuntimeError):
    """CUDA C cannot be compiled, loaded or launched here; the message says why."""


@functools.cache
def library(module: str) -> Any:
    """Return a module of cuda.bindings, "driver" or "nvrtc". Raise Unusable where it, or its library, is missing."""
    try:
        found = importlib.import_module(f"cuda.bindings.{module}")
        getattr(found, LIBRARIES[module])()
    except ImportError as error:
        raise Unusable("the package cuda-bindings is not installed (pip install cuda-bindings)") from error
    except Exception as error:  # each release of cuda-bindings has another one for a library that is not found
        raise Unusable(f"the library of cuda.bindings.{module} cannot be loaded: {error}") from error
    return found


def call(function: str, *arguments: Any, of: str = "") -> Any:
    """Return what a function of the driver, or of NVRTC, returns beside its status: a value, a list of several or none.

    A failure raises the library's error, which names the function and what the call is `of`.
    """
    status, *values = getattr(library("nvrtc" if function.startswith("nvrtc") else "driver"), function)(*arguments)
    check(status, f"{function} of {of}" if of else function)
    return values[0] if len(values) == 1 else values


def check(status: Any, doing: str, error: type[Exception] = Unusable) -> None:
    """Raise the error where the status of a call is not success; where memory is short, the one that says so."""
    if status.value:
        raise OUT_OF_MEMORY.get(status.name, error)(f"{doing} failed: {status.name}")
