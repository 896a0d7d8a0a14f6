"""Which backend runs: chosen for a layer, a `with` block, the process, or by environment variable."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from . import tracing
from .ops import availability
from .parts import EVERY_PART, described

BACKENDS = ("auto", "reference", "collapsed", "native", "triton", "cuda")
WHY_NOT = {  # the others run anywhere
    "native": availability.why_not_native,
    "triton": availability.why_not_triton,
    "cuda": availability.why_not_cuda,
}
CUDA_OR_TRITON = "cuda or triton"  # what `auto` runs where both could; users cannot choose it
ENVIRONMENT_VARIABLE = "PANET_LAYERS_BACKEND"


def check_backend(name: str | None, source: str = "backend") -> str:
    """Return the backend's name, "auto" for None. Raise ValueError, naming `source`, for an unknown one."""
    if name is None:
        return "auto"
    if name not in BACKENDS:
        raise ValueError(f"{source} is {name!r}; it must be one of {', '.join(map(repr, BACKENDS))}")
    return name


_process_backend = check_backend(
    os.environ.get(ENVIRONMENT_VARIABLE) or None, f"environment variable {ENVIRONMENT_VARIABLE}"
)


def get_backend() -> str:
    """Return the process's backend: that of every layer that names none."""
    return _process_backend


def available_backends() -> dict[str, str | None]:
    """Return None for each backend that can run here; for each other one the reason, with what it needs."""
    return {name: WHY_NOT[name]() if name in WHY_NOT else None for name in BACKENDS if name != "auto"}


def set_backend(name: str | None) -> None:
    """Choose the backend of every layer that names none: "auto" (or None) or a name that `available_backends` lists.

    Raises ValueError for any other name.
    """
    global _process_backend
    _process_backend = check_backend(name)


@contextmanager
def use_backend(name: str | None) -> Iterator[None]:
    """Choose the backend as `set_backend` does, within a `with` block. The choice holds for all threads."""
    before = get_backend()
    set_backend(name)
    try:
        yield
    finally:
        set_backend(before)


def check_can_call(requested: str | None, layer: torch.nn.Module, part: str) -> None:
    """Raise RuntimeError where a backend of kernels, which calls no module, is named, and a part must be called."""
    name = check_backend(requested)
    name = get_backend() if name == "auto" else name
    if name not in ("auto", "reference", "collapsed") and not tracing.leaving_pytorch():
        reason = f"{described(layer, part)} is not as it was made; restore it"
        if part is EVERY_PART:
            reason = "torch has global module hooks, or its classes another forward; take these away"
        raise RuntimeError(
            f"backend {name!r} reads the parts of a layer and calls none, but {reason}, or use 'collapsed', "
            "'reference' or 'auto', which call parts"
        )


def resolve_backend(requested: str | None, x: torch.Tensor, has_cuda: bool = False) -> str:
    """Return the backend to run on `x`: the layer's request, else the process's choice, else the best available one.

    `has_cuda` says whether the layer has kernels for the backend "cuda". A named backend never falls back: it raises
    RuntimeError where it cannot run. Exported graphs get "plain", the formulas without registered operators, unless a
    backend is named and the format can hold its operators.
    """
    name = check_backend(requested)
    if name == "auto":
        name = get_backend()
    if tracing.exporting() and name != "reference" and (name == "auto" or tracing.leaving_pytorch()):
        return "plain"
    if name == "auto":
        return _best(x, has_cuda)
    if name == "cuda" and not has_cuda:
        raise RuntimeError("backend 'cuda' cannot run: it has kernels for EMAM only; use 'triton' or 'auto' for SCAM")
    if name in WHY_NOT and (reason := WHY_NOT[name](x)):
        raise RuntimeError(f"backend {name!r} cannot run: {reason}; use 'collapsed', 'reference' or 'auto'")
    return name


def _best(x: torch.Tensor, has_cuda: bool) -> str:
    if availability.triton_preferred(x):
        return CUDA_OR_TRITON if has_cuda and availability.cuda_preferred(x) else "triton"
    return "native" if availability.native_preferred(x) else "collapsed"
