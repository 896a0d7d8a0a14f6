"""What rounding can do to a result: float64 operations, each of which errs as it might in a lower precision.

This measures an error budget for one example: formulas that cancel, or a gate that is almost closed, widen it by
themselves, and the luck of a single run in lower precision does not (Monte Carlo arithmetic; Parker, 1997).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._decomp import get_decompositions
from torch.utils._python_dispatch import TorchDispatchMode

# Operations that only move numbers, or choose among them.
EXACT = {
    "_unsafe_view", "cat", "clone", "copy", "detach", "empty", "empty_like", "fill", "gather", "max", "new_zeros",
    "relu", "scatter", "select_backward", "slice_backward", "threshold_backward", "value_selecting_reduction_backward",
    "zeros", "zeros_like",
}  # fmt: skip
# Operations with one rounding for each element; every other one is a sum, which also rounds its terms.
ELEMENTWISE = {"add", "div", "mul", "neg", "sigmoid", "sigmoid_backward", "sub"}
# Normalisations run step by step: an error of their mean, or of the mean gradient, is common to all elements.
_NORMALISATIONS = ("native_group_norm", "native_batch_norm")
STEP_BY_STEP = get_decompositions(
    [getattr(torch.ops.aten, name + end) for name in _NORMALISATIONS for end in ("", "_backward")]
)
DRAWN = 1 << 20


@cache
def _errors() -> Tensor:
    """Numbers between -1 and 1, drawn once: to draw them for every operation takes half of the time."""
    return torch.rand(DRAWN, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1


class Rounding(TorchDispatchMode):
    """A block whose float64 operations err by up to an eps of `dtype`, drawn at random, and round as it does near zero.

    Equal numbers that one operation computes elementwise stay equal, and zeros stay zeros, as in real rounding: maxima
    that share a value still share it.
    """

    def __init__(self, dtype: torch.dtype, seed: int) -> None:
        super().__init__()
        info = torch.finfo(dtype)
        self.eps, self.least = info.eps, info.smallest_normal * info.eps
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in STEP_BY_STEP:
            with self:
                return STEP_BY_STEP[func](*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        if func.is_view or func._schema.is_mutable or name in EXACT:
            return func(*args, **(kwargs or {}))
        if name in ELEMENTWISE:
            return self._erring(func(*args, **(kwargs or {})), alike=True)
        # Vectors are left alone: running statistics, which the operation may update in place, are among them.
        terms = [self._erring(t) if isinstance(t, Tensor) and t.dim() > 1 else t for t in args]
        result = func(*terms, **(kwargs or {}))
        if isinstance(result, tuple):
            return tuple(self._erring(part, _terms(name, args, part)) for part in result)
        return self._erring(result, _terms(name, args, result))

    def _erring(self, result: Any, terms: int = 1, alike: bool = False) -> Any:
        """Return sums of so many terms with an error each; with `alike`, one that depends on the number only."""
        if not (isinstance(result, Tensor) and result.dtype == torch.float64 and result.numel()):
            return result
        salt = int(torch.randint(DRAWN, (), generator=self.generator))
        if alike:
            bits = (result.view(torch.int64) + salt) * 0x5851F42D4C957F2D
            errors = _errors()[bits >> 44]  # 20 bits, half of them below zero
        else:
            errors = _errors()[(torch.arange(result.numel()) + salt) % DRAWN].view(result.shape)
        # Sign and product, not a sum of both parts: they leave zeros, infinities and NaN as they are. The errors of a
        # sum do not average out where terms are equal, as in a constant map: they round alike.
        eps = self.eps * terms**0.5
        return (result * (1 + errors * eps)).add_(result.sign() * errors, alpha=self.least)


def _terms(name: str, args: Any, result: Any) -> int:
    """Return about how many terms each element of an operation's result is the sum of."""
    if name.endswith("mm"):
        return args[-1].shape[-2]
    if name == "convolution":
        return args[1][0].numel()
    if name == "convolution_backward" and result is not None and result.shape != args[1].shape:  # of weight or bias
        return max(1, args[0].numel() // args[0].shape[1])
    return max(1, args[0].numel() // max(1, result.numel())) if isinstance(result, Tensor) else 1


class Range(TorchDispatchMode):
    """A block that finds out whether its float64 operations leave the range of `dtype`.

    A sigmoid below the smallest normal number does: kernels may round it to zero.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        info = torch.finfo(dtype)
        self.most, self.least, self.left = info.max, info.smallest_normal, False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple) else [result]:
            self._look_at(tensor)
        if func._schema.name in ("aten::sigmoid", "aten::sigmoid_"):
            self.left |= bool(((result > 0) & (result < self.least)).any())
        if "norm" in func._schema.name:  # which sums squares, or products of gradient and input, on its own
            maps = [t for t in args if isinstance(t, Tensor) and t.dim() > 2]
            self._look_at((maps[0] * maps[-1]).abs().sum())
        return result

    def _look_at(self, tensor: Any) -> None:
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.numel():
            self.left |= tensor.nan_to_num(0, 0, 0).abs().max().item() > self.most
