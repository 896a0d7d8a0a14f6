"""The correctness gate: results are compared with the float64 answer, and judged by the plain formulas' own error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from ..ops.precision import accumulation_dtype
from .draws import SEED

DRAWS = 16  # of numbers, on which the formulas' own error is found where a contender exceeds that of the first

Results = dict[str, Tensor]  # the output and the gradients by name
Contender = TypeVar("Contender")


class Errors(NamedTuple):
    """Of a tensor, relative to its largest value: its error, that of the formulas in the same precision, the bound.

    rounding: that of the result; where it nearly cancels, of a value as large as those that are added.
    """

    own: float
    of_formulas: float
    rounding: float
    bound: float


class Verdict(NamedTuple):
    """`error`: the largest relative error of any tensor; `fault`: "" if passed; `errors`: of each tensor."""

    error: float
    fault: str
    errors: dict[str, Errors]


class Gate(Generic[Contender]):
    """Judges contenders by the float64 answer and by the own error of the formulas whose function they compute.

    `run(contender, dtype, seed)` returns what a contender computes on the numbers of a seed, in a precision.

    A result's error may be at most twice that of the formulas in the same precision, plus rounding. Of that error the
    largest of several draws counts: on one it may be small by chance. In a whole network, a result's may be eight times
    the largest of the tensors' relative errors.
    """

    def __init__(self, run: Callable[[Contender, torch.dtype, int], Results], whole_network: bool = False) -> None:
        self.run, self.whole_network = run, whole_network
        self._answers: dict[tuple[Contender, torch.dtype, int], Results] = {}

    def judge(self, contender: Contender, formulas: Contender, dtype: torch.dtype) -> Verdict:
        """Return the verdict on a contender in this precision."""
        exact = self.answer(formulas, torch.float64)
        values = self._run(contender, dtype)
        errors = self._errors(formulas, dtype, SEED)
        if self.whole_network:
            # After a hundred layers the errors of a tensor are chance; and torch's batch normalisation in channels_last
            # rounds more than the contiguous one.
            scales = _scales(exact)
            largest = max(map(_relative, errors, scales))
            return _compare(values, exact, dtype, [4 * largest * scale for scale in scales])
        verdict = _compare(values, exact, dtype, errors)
        # The error of a gradient that cancels is chance: it may have been small on these numbers only.
        for seed in range(SEED + 2, SEED + 2 * DRAWS, 2):
            if verdict.fault:
                errors = list(map(max, errors, self._errors(formulas, dtype, seed)))
                verdict = _compare(values, exact, dtype, errors)
        return verdict

    def answer(self, contender: Contender, dtype: torch.dtype, seed: int = SEED) -> Results:
        """Return what the contender computes, as doubles; it is computed once."""
        key = contender, dtype, seed
        if key not in self._answers:
            self._answers[key] = self._run(contender, dtype, seed)
        return self._answers[key]

    def _errors(self, formulas: Contender, dtype: torch.dtype, seed: int) -> list[float]:
        """Return the formulas' largest error in each tensor."""
        exact = self.answer(formulas, torch.float64, seed)
        return list(map(_distance, self.answer(formulas, dtype, seed).values(), exact.values()))

    def _run(self, contender: Contender, dtype: torch.dtype, seed: int = SEED) -> Results:
        with full_precision():
            return {name: tensor.detach().double() for name, tensor in self.run(contender, dtype, seed).items()}


def _compare(values: Results, exact: Results, dtype: torch.dtype, allowances: list[float]) -> Verdict:
    """Return the verdict, where a tensor's error may be twice its allowance, and roundings."""
    # One rounding of the result, and some of its sums, which are in float32 or better.
    rounding = torch.finfo(dtype).eps + 16 * torch.finfo(accumulation_dtype(dtype)).eps
    scales = _scales(exact)
    # A gradient that cancels to nearly zero is judged on the scale of the others.
    smallest_scale = 1e-2 * max(scales)
    errors, fault = {}, ""
    tensors = zip(values.items(), exact.values(), allowances, scales, strict=True)
    for (name, value), wanted, allowance, scale in tensors:
        error = _distance(value, wanted)
        judged_scale = max(scale, smallest_scale)
        limit = 2 * allowance + rounding * judged_scale
        if not fault and not error <= limit:
            fault = f"{name} differs from the float64 answer by {error:.2g}; {limit:.2g} is allowed"
        one_rounding = judged_scale * torch.finfo(dtype).eps / 2
        errors[name] = Errors(*(_relative(value, scale) for value in (error, allowance, one_rounding, limit)))
    return Verdict(max(found.own for found in errors.values()), fault, errors)


def _relative(error: float, scale: float) -> float:
    return error / scale if scale else 0.0


def _scales(tensors: Results) -> list[float]:
    """Return the largest absolute value of each tensor."""
    return [float(tensor.abs().max()) for tensor in tensors.values()]


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute float32 convolutions and products in float32. When timed, they are as torch has them (TF32)."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def _distance(value: Tensor, exact: Tensor) -> float:
    """Return the largest absolute difference; infinite if the value is not a number."""
    difference = (value.reshape(exact.shape) - exact).abs().max().item()
    return difference if difference == difference else float("inf")
