"""Which implementation runs: per layer, per `with` block, per process or by environment variable."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from . import tracing
from .ops import availability

BACKENDS = ("auto", "reference", "collapsed", "triton")
ENVIRONMENT_VARIABLE = "PANET_LAYERS_BACKEND"


def check_backend(name: str | None, source: str = "backend") -> str:
    """Return `name` ("auto" for None) if it is a backend's; raise ValueError, naming `source`, if it is not."""
    if name is None:
        return "auto"
    if name not in BACKENDS:
        raise ValueError(f"{source} is {name!r}; it must be one of {', '.join(map(repr, BACKENDS))}")
    return name


_process_backend = check_backend(
    os.environ.get(ENVIRONMENT_VARIABLE) or None, f"environment variable {ENVIRONMENT_VARIABLE}"
)


def get_backend() -> str:
    """The process's backend: what a layer without a backend of its own uses."""
    return _process_backend


def set_backend(name: str | None) -> None:
    """Choose the backend of every layer that names none: "auto" (or None), "reference", "collapsed" or "triton".

    Raises ValueError for any other name.
    """
    global _process_backend
    _process_backend = check_backend(name)


@contextmanager
def use_backend(name: str | None) -> Iterator[None]:
    """As `set_backend`, for the duration of a `with` block. The setting is the process's, not the thread's."""
    before = get_backend()
    set_backend(name)
    try:
        yield
    finally:
        set_backend(before)


def resolve_backend(requested: str | None, x: torch.Tensor) -> str:
    """The implementation to run on `x`: the layer's request, else the process's choice, else the best there is.

    A named backend never falls back: "triton" raises RuntimeError where it can't run. Exported graphs get "plain", the
    formulas without operators of our own, unless a backend is named and the format can hold its operators.
    """
    name = check_backend(requested)
    if name == "auto":
        name = get_backend()
    if tracing.exporting() and name != "reference" and (name == "auto" or tracing.leaving_pytorch()):
        return "plain"
    if name == "auto":
        return "triton" if availability.preferred(x) else "collapsed"
    if name == "triton" and (reason := availability.why_not(x)):
        raise RuntimeError(f"backend 'triton' can't run here: {reason}; use 'collapsed', 'reference' or 'auto'")
    return name
