"""How a function becomes the operator `torch.ops.panet_layers.<name>`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any, get_type_hints

import torch
from torch import Tensor

from ..compatibility import is_exporting
from ..tracing import dispatched
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
    _library.impl(name, _without_autograd_and_autocast(_in_a_row(implementation)), "CompositeExplicitAutograd")
    torch.library.register_fake(f"panet_layers::{name}", _in_a_row(fake), lib=_library)


def if_given(share: Tensor | None) -> tuple[Tensor, ...]:
    """Return an operator's last argument, in a row: most operators have no share in their schema."""
    return () if share is None else (share,)


def of_given(gradients: Sequence[Tensor], inputs: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Return an operator's gradients of these inputs, None for None: there it returns nothing, or what is empty."""
    return [None if given is None else gradient for gradient, given in zip_longest(gradients, inputs)]


def recorded(*inputs: Tensor | None) -> bool:
    """Return whether autograd records what is computed of these. In torch.export it does not have to."""
    return torch.is_grad_enabled() and not is_exporting() and any(t is not None and t.requires_grad for t in inputs)


def directly(operator: Any, implementation: Callable) -> Callable:
    """Return the operator as a function that calls its implementation where nothing would see the operator.

    The call of an operator costs more than the rest of a small call. The implementation must not differentiate.
    """
    run = _in_a_row(implementation)

    def call(*row: Any) -> tuple[Tensor, ...]:
        return run(*row) if _is_unwatched(row) else operator(*row)

    return call


_PLAIN = {Tensor, torch.nn.Parameter, type(None), int, float, bool}


def _is_unwatched(row: tuple[Any, ...]) -> bool:
    """Return whether nothing traces, compiles, counts or profiles operators, and the arguments are plain tensors."""
    return (
        not torch.compiler.is_compiling()
        and not dispatched()
        and torch._C._get_tracing_state() is None
        and not torch.autograd._profiler_enabled()
        and _PLAIN.issuperset(map(type, row))
        and not any(t.is_neg() for t in row if isinstance(t, Tensor))  # views whose memory has the other signs
    )


def _in_a_row(function: Callable) -> Callable:
    """Return the function with all named tuples unpacked.

    For f(x: Tensor, pair: Pair, eps: float) that returns (out, Pair) it is (x, first, second, eps) -> (out, *pair).
    """
    kinds = [kind for name, kind in get_type_hints(function).items() if name != "return"]
    parts, at = [], 0
    for kind in kinds:
        width = len(getattr(kind, "_fields", "1"))
        parts.append((getattr(kind, "_make", _single), slice(at, at + width)))
        at += width

    def run(*row: Any) -> tuple[Tensor, ...]:
        row += (None,) * (at - len(row))  # the dispatcher leaves out arguments with their default, None
        first, others = function(*[make(row[part]) for make, part in parts])
        # An operator returns no None: the gradient of a missing parameter is empty.
        # Not `new_empty`: a subclass of Tensor may have a method of this name.
        return first, *[_nothing(first) if tensor is None else tensor for tensor in others]

    return run


def _single(row: tuple[Any]) -> Any:
    return row[0]


def _nothing(like: Tensor) -> Tensor:
    return torch.empty(0, dtype=like.dtype, device=like.device)


def _without_autograd_and_autocast(function: Callable) -> Callable:
    def run(x: Tensor, *others: Any) -> tuple[Tensor, ...]:
        with torch.no_grad(), without_autocast(x.device.type):
            return function(x, *others)

    return run
