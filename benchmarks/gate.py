"""The correctness gate: only contenders whose output and gradients agree with the float64 reference are timed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.cases import DTYPES, Case, is_detector
from benchmarks.contenders import REFERENCE, Contender, find_contender
from benchmarks.prepared_steps import SEED, prepare

DRAWS = 4  # of numbers, on which the formulas' own error is found where a contender exceeds that of the first


class Verdict(NamedTuple):
    """`error`: the largest error of any tensor, relative to that tensor's largest value; `fault`: "" if passed."""

    error: float
    fault: str


class Gate:
    """Judges the contenders of one case and pass, by the float64 answer and by the plain formulas' own error.

    A result's error may be at most twice that of the contender whose function it computes (the reference, for most) in
    the same precision, plus rounding. Of that error the largest of several draws counts: on one it may be small by
    chance. In a whole network, a result's may be eight times the largest of the tensors' relative errors. The modules
    of others promise nothing in half precision: they are judged in float32, which shows that they compute the same
    function.
    """

    def __init__(self, case: Case, pass_: str) -> None:
        self.case, self.pass_ = case, pass_
        self._answers: dict[tuple[str, torch.dtype, int], dict[str, Tensor]] = {}
        self._answer(REFERENCE, torch.float64)  # an input that the formulas cannot take is reported once, not by each

    def judge(self, contender: Contender) -> Verdict:
        dtype = DTYPES[self.case.dtype] if contender.promises_precision else torch.float32
        function = contender.same_as
        exact = self._answer(function, torch.float64)
        values = self._run(contender, dtype)
        if is_detector(self.case.layer):
            # After a hundred layers the errors of a tensor are chance; and torch's batch normalisation in channels_last
            # rounds more than the contiguous one.
            largest = max(self._relative_errors(function, dtype, SEED))
            return _compare(values, exact, dtype, [4 * largest * scale for scale in _scales(exact)])
        allowances = list(map(_distance, self._answer(function, dtype).values(), exact.values()))
        verdict = _compare(values, exact, dtype, allowances)
        # The error of a gradient that cancels is chance: it may have been small on these numbers only.
        for seed in range(SEED + 2, SEED + 2 * DRAWS, 2):
            if verdict.fault:
                errors = self._relative_errors(function, dtype, seed)
                allowances = [max(a, e * scale) for a, e, scale in zip(allowances, errors, _scales(exact), strict=True)]
                verdict = _compare(values, exact, dtype, allowances)
        return verdict

    def _relative_errors(self, name: str, dtype: torch.dtype, seed: int) -> list[float]:
        """Return this contender's error in each tensor, relative to the tensor's largest value; 0 where that is 0."""
        exact = self._answer(name, torch.float64, seed)
        errors = map(_distance, self._answer(name, dtype, seed).values(), exact.values())
        return [error / scale if scale else 0.0 for error, scale in zip(errors, _scales(exact), strict=True)]

    def _answer(self, name: str, dtype: torch.dtype, seed: int = SEED) -> dict[str, Tensor]:
        """Return what the contender of this name computes, as doubles."""
        key = name, dtype, seed
        if key not in self._answers:
            self._answers[key] = self._run(find_contender(self.case.layer, name), dtype, seed)
        return self._answers[key]

    def _run(self, contender: Contender, dtype: torch.dtype, seed: int = SEED) -> dict[str, Tensor]:
        """Return the output and the gradients by name, in float64."""
        with full_precision():
            step = prepare(self.case, contender, self.pass_, dtype, seed)
            out = step.forward()
            gradients = step.backward(out)
        names = ["output", *(f"gradient of {name}" for name in step.gradient_names)]
        return {name: t.detach().double() for name, t in zip(names, (out, *gradients), strict=True)}


def _compare(
    values: dict[str, Tensor], exact: dict[str, Tensor], dtype: torch.dtype, allowances: list[float]
) -> Verdict:
    """Return the verdict, where a tensor's error may be twice its allowance, and roundings."""
    # One rounding of the result, and some of its sums, which are in float32 or better.
    rounding = torch.finfo(dtype).eps + 16 * torch.finfo(torch.float32).eps
    scales = _scales(exact)
    # A gradient that cancels to nearly zero is judged on the scale of the others.
    smallest_scale = 1e-2 * max(scales)
    worst = Verdict(0.0, "")
    tensors = zip(values.items(), exact.values(), allowances, scales, strict=True)
    for (name, value), wanted, allowance, scale in tensors:
        error = _distance(value, wanted)
        limit = 2 * allowance + rounding * max(scale, smallest_scale)
        fault = worst.fault
        if not fault and not error <= limit:
            fault = f"{name} differs from the float64 answer by {error:.2g}; {limit:.2g} is allowed"
        worst = Verdict(max(worst.error, error / scale if scale else 0.0), fault)
    return worst


def _scales(tensors: dict[str, Tensor]) -> list[float]:
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
