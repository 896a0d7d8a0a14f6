"""What `auto` runs on an NVIDIA GPU for contiguous maps: kernels of CUDA C, or Triton's where those cannot run.

Both save the same for the backward. Only `auto` comes here: a named backend runs its own kernels or raises.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from torch import Tensor

from ..cuda.bindings import Unusable
from . import fused
from .cuda import backward as cuda_backward
from .cuda import forward as cuda
from .cuda.planning import TooLarge
from .tensors import Parameters, Saved

P = ParamSpec("P")
T = TypeVar("T")

_failures: list[str] = []  # why this process no longer tries CUDA C


def forward(x: Tensor, params: Parameters, groups: int, eps: float) -> tuple[Tensor, Saved]:
    """Return what `fused.forward` returns, by the kernels that can run."""
    return _by_cuda_or_triton(cuda.forward, fused.forward, x, params, groups, eps)


def backward(grad: Tensor, x: Tensor, params: Parameters, saved: Saved, groups: int) -> tuple[Tensor, Parameters]:
    """Return what `fused.backward` returns, by the kernels that can run."""
    return _by_cuda_or_triton(cuda_backward.backward, fused.backward, grad, x, params, saved, groups)


def _by_cuda_or_triton(by_cuda: Callable[P, T], by_triton: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return the result of the first, or of the second if that cannot run; the first failure is a warning."""
    if not _failures:
        try:
            return by_cuda(*args, **kwargs)
        except TooLarge:
            pass
        except Unusable as error:
            _warn(error)
    return by_triton(*args, **kwargs)


def _warn(error: Unusable) -> None:
    _failures.append(str(error))
    warnings.warn(
        f"panet_layers: EMAM takes its Triton kernels instead of those of CUDA C: {error}. "
        "If that is not about a missing package, please report this text with the output of "
        "`python -m panet_layers.certify --quick`.",
        stacklevel=4,
    )
