"""What torch's FlopCounterMode counts for a registered operator: the products of the paper's formulas.

The same number for every backend and size, whatever the backend saves: as `profile` reports, and as a counter sees
where the formulas themselves run. Convolutions and matrix products count two for each multiply-accumulate, others
nothing; a backward counts twice its forward, for the gradients of the input and of the weights.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from math import prod
from typing import Any

import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

Shape = tuple[int, ...]
_formulas: dict[Any, Callable[..., int]] = {}


def emam(x: Shape, w1: Shape, *_others: Any) -> int:
    """Return the FLOPs of EMAM's forward: two convolutions, and two weighted sums over the channels of a group."""
    batch, channels, height, width = x
    k, pixels = w1[0], height * width
    return 2 * batch * channels * (k * (height + width) + 9 * k * pixels + 2 * pixels)


def scam(x: Shape, fc1: Shape, fc1_bias: Any, fc2: Shape, fc2_bias: Any, conv: Shape, *_others: Any) -> int:
    """Return the FLOPs of SCAM's forward: two linear layers, for the mean and for the maximum, and a convolution."""
    batch, _, height, width = x
    return 2 * batch * (2 * prod(fc1) + 2 * prod(fc2) + prod(conv) * height * width)


def add_formulas(forward: Any, backward: Any, of_forward: Callable[..., int]) -> None:
    """Note what a pair of operators counts: `of_forward` of the forward's arguments, with shapes for tensors."""

    def count(*args: Any, **out: Any) -> int:
        return of_forward(*args)

    def count_backward(grad: Shape, *args: Any, **out: Any) -> int:
        return 2 * of_forward(*args)

    _formulas.update({forward: count, backward: count_backward})


def are_counting(hooks: Iterable[Callable]) -> bool:
    """Return whether all these global hooks are those of FLOP counters, which know our operators."""
    tracker = sys.modules.get("torch.utils.module_tracker")
    return tracker is not None and all(isinstance(getattr(h, "__self__", None), tracker.ModuleTracker) for h in hooks)


def announce() -> None:
    """Tell active FLOP counters the formulas. Not done at import, because torch's counter imports triton."""
    if torch.compiler.is_compiling() or "torch.utils.flop_counter" not in sys.modules:
        return
    if torch._C._len_torch_dispatch_stack():
        _register()


def _register() -> None:
    """Add the formulas to torch's, and to the copies of them that active counters hold."""
    from torch.utils import flop_counter

    for operator, formula in _formulas.items():
        if operator not in flop_counter.flop_registry:
            flop_counter.register_flop_formula(operator)(formula)
    for mode in _get_current_dispatch_mode_stack():
        if isinstance(mode, flop_counter._FlopCounterMode):
            for operator in _formulas:
                mode.counter.flop_registry.setdefault(operator, flop_counter.flop_registry[operator])
