"""How a function becomes the operator `torch.ops.panet_layers.<name>`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_type_hints

import torch
from torch import Tensor

from .precision import without_autocast

_library = torch.library.Library("panet_layers", "DEF")


def register(schema: str, implementation: Callable, fake: Callable) -> None:
    """Define an operator that tracing sees as one opaque node; under a compiler its inputs keep their strides.

    An operator takes and returns tensors in a row, as its schema names them. The functions get them as named tuples
    where their annotations say so, and return the first output and a named tuple of the others. `fake` returns empty
    tensors of the right shapes, dtypes and strides; it takes as many of the arguments as it needs, from the first.
    """
    name = schema.split("(")[0]
    _library.define(schema, tags=(torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order))
    _library.impl(name, _without_autograd_and_autocast(in_a_row(implementation)), "CompositeExplicitAutograd")
    torch.library.register_fake(f"panet_layers::{name}", in_a_row(fake), lib=_library)


def in_a_row(function: Callable) -> Callable:
    """Return the function with all named tuples unpacked.

    For f(x: Tensor, pair: Pair, eps: float) that returns (out, Pair) it is (x, first, second, eps) -> (out, *pair).
    """
    taken: list[tuple[Any, int, int]] = []  # the class of a named tuple or None, and where its tensors are in the row
    for kind in (kind for name, kind in get_type_hints(function).items() if name != "return"):
        start, fields = taken[-1][2] if taken else 0, getattr(kind, "_fields", None)
        taken.append((kind if fields else None, start, start + (len(fields) if fields else 1)))

    def run(*row: Any) -> tuple[Tensor, ...]:
        first, others = function(*[kind(*row[i:j]) if kind else row[i] for kind, i, j in taken])
        # An operator returns no None: the gradient of a missing parameter is empty.
        # Not `new_empty`: a subclass of Tensor may have a method of this name.
        return first, *[_nothing(first) if tensor is None else tensor for tensor in others]

    return run


def runs_directly(*tensors: Tensor | None) -> bool:
    """Return whether an operator's implementation may be called in its place: nothing looks for the operator.

    To call an operator takes longer than a small layer. The implementation must ignore autograd and autocast.
    """
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():
        return False
    return all(t is None or type(t) is Tensor or type(t) is torch.nn.Parameter for t in tensors)


def _nothing(like: Tensor) -> Tensor:
    return torch.empty(0, dtype=like.dtype, device=like.device)


def _without_autograd_and_autocast(function: Callable) -> Callable:
    def run(x: Tensor, *others: Any) -> tuple[Tensor, ...]:
        with torch.no_grad(), without_autocast(x.device.type):
            return function(x, *others)

    return run
