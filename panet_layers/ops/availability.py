"""Where the kernels of each backend can run, and where `auto` takes them. This file does not import triton."""

from __future__ import annotations

import importlib.util
import os
import re
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor

from ..compatibility import called_not_traced
from .cuda import compiling, launching
from .native import library
from .native.tensors import DTYPES as NATIVE_DTYPES

# Of a map: kernels count pixels in 32 bits, and partial sums of rows and columns, of which a row of 8 pixels has 9.
MOST_PIXELS = 2**31 // 9 * 8 - 4096
LEAST_CAPABILITY = (8, 0)  # Ampere: the kernels rely on its bfloat16 and shared memory
LEAST_TRITON = (3, 4)  # of torch 2.8, the oldest that has been tried with these kernels
AUTO_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
why_no_library = called_not_traced(library.why_not)
library_is_usable = called_not_traced(library.usable)

# Triton's interpreter runs kernels as Python on CPU tensors, for tests. These are the values that triton reads as yes.
INTERPRETING = os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")


def _triton_version() -> tuple[int, int] | None:
    """Return the version of the installed Triton, or None without one.

    It is read from Triton's code, which is not imported: its distribution has several names, such as pytorch-triton.
    """
    spec = importlib.util.find_spec("triton")
    if spec is None or spec.origin is None:
        return None
    found = re.search(r"__version__ = .(\d+)\.(\d+)", Path(spec.origin).read_text())
    return (int(found[1]), int(found[2])) if found else LEAST_TRITON


TRITON_VERSION = _triton_version()


def why_not_triton(x: Tensor | None = None) -> str | None:
    """Return why the Triton kernels cannot run on x, or on no device here; None where they can."""
    if TRITON_VERSION is None:
        return "the package triton is not installed"
    if TRITON_VERSION < LEAST_TRITON:
        wanted, installed = (".".join(map(str, version)) for version in (LEAST_TRITON, TRITON_VERSION))
        return f"it needs triton {wanted} or later, which torch 2.8 brings, and triton {installed} is installed"
    if INTERPRETING:
        return None
    if x is None:
        return _why_no_gpu()
    if x.device.type != "cuda" or torch.version.hip is not None:
        kind = "ROCm" if x.device.type == "cuda" else x.device.type
        return f"it needs an NVIDIA GPU, and the input is a {kind} tensor"
    return _why_not_gpu(x.device)


def _why_no_gpu() -> str | None:
    if torch.version.hip is not None or not torch.cuda.is_available():
        return "it needs an NVIDIA GPU, and torch finds none"
    reasons = [_why_not_gpu(torch.device("cuda", index)) for index in range(torch.cuda.device_count())]
    return None if None in reasons else reasons[0]


def _why_not_gpu(device: torch.device) -> str | None:
    properties = torch.cuda.get_device_properties(device)
    if (properties.major, properties.minor) < LEAST_CAPABILITY:
        found = f"{properties.major}.{properties.minor}"
        return f"it needs compute capability {LEAST_CAPABILITY[0]}.0 (Ampere) or later, and {device} has {found}"
    return None


def why_not_cuda(x: Tensor | None = None) -> str | None:
    """Return why the kernels of CUDA C cannot run on x, or on no device here; None where they can.

    Whether x is too large for them is only known when they are launched.
    """
    if x is None:
        return _why_no_gpu() or compiling.why_not()
    if not launching.machine.runs_on(x.device):
        kind = "ROCm" if x.device.type == "cuda" else x.device.type
        return f"it needs an NVIDIA GPU, and the input is a {kind} tensor"
    if x.device.type == "cuda" and (reason := _why_not_gpu(x.device)):
        return reason
    if x.dtype not in AUTO_DTYPES:
        return f"it takes {', '.join(map(str, AUTO_DTYPES))}, and the input is {x.dtype}"
    if not x.is_contiguous():
        return f"it takes contiguous maps, and the input of shape {tuple(x.shape)} has strides {x.stride()}"
    return compiling.why_not()


def why_not_native(x: Tensor | None = None) -> str | None:
    """Return why the compiled kernels cannot run on x, or not at all here; None where they can."""
    if x is not None and x.device.type != "cpu":
        return f"it needs a CPU tensor, and the input is a {x.device.type} tensor"
    if x is not None and x.dtype not in NATIVE_DTYPES:
        return f"it takes {', '.join(map(str, NATIVE_DTYPES))}, and the input is {x.dtype}"
    return why_no_library()


def check_pixels(x: Tensor) -> None:
    """Raise ValueError where x (B, C, H, W) has more pixels in a map than the kernels can count."""
    if x.shape[2] * x.shape[3] >= MOST_PIXELS:
        raise ValueError(
            f"backend 'triton' takes maps of less than {MOST_PIXELS} pixels, got {tuple(x.shape)}; use 'collapsed'"
        )


def triton_preferred(x: Tensor) -> bool:
    """Return whether `auto` takes the Triton kernels: wherever they can run on a GPU, except for float64."""
    return x.device.type == "cuda" and x.dtype in AUTO_DTYPES and why_not_triton(x) is None


def cuda_preferred(x: Tensor) -> bool:
    """Return whether `auto` tries the kernels of CUDA C on x, which the Triton kernels take too."""
    return launching.machine.runs_on(x.device) and x.dtype in AUTO_DTYPES and x.is_contiguous()


def native_preferred(x: Tensor) -> bool:
    """Return whether `auto` takes the compiled kernels on x."""
    return x.device.type == "cpu" and x.dtype in NATIVE_DTYPES and library_is_usable()


def current_device(x: Tensor) -> AbstractContextManager:
    """Make x's GPU the current device: Triton launches kernels there. Nothing to do for CPU tensors."""
    return torch.cuda.device_of(x) if x.is_cuda else nullcontext()
