"""The correctness gate: only contenders whose output and gradients agree with the float64 reference are timed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.cases import DTYPES, Case
from benchmarks.contenders import Contender, contenders
from benchmarks.prepared_steps import prepare


class Verdict(NamedTuple):
    """`error`: the largest error of any tensor, relative to that tensor's largest value; `fault`: "" if passed."""

    error: float
    fault: str


class Gate:
    """Judges the contenders of one case and pass, by the float64 answer and by the plain reference's own error.

    A result's error may be at most twice the reference's own error in the same precision, plus rounding. The modules
    of others promise nothing in half precision: they are judged in float32, which shows that they compute the same
    function.
    """

    def __init__(self, case: Case, pass_: str) -> None:
        self.case, self.pass_ = case, pass_
        self.reference = contenders(case.layer)[0]
        self.names, self.exact = self._run(self.reference, torch.float64)
        self._plain_errors: dict[torch.dtype, list[float]] = {}

    def judge(self, contender: Contender) -> Verdict:
        dtype = DTYPES[self.case.dtype] if contender.promises_precision else torch.float32
        # One rounding of the result, and some of its sums, which are in float32 or better.
        rounding = torch.finfo(dtype).eps + 16 * torch.finfo(torch.float32).eps
        # A gradient that cancels to nearly zero is judged on the scale of the others.
        smallest_scale = 1e-2 * max(float(exact.abs().max()) for exact in self.exact)
        _, values = self._run(contender, dtype)
        worst = Verdict(0.0, "")
        for name, value, exact, allowance in zip(
            self.names, values, self.exact, self._errors_of_reference(dtype), strict=True
        ):
            error, scale = _distance(value, exact), float(exact.abs().max())
            limit = 2 * allowance + rounding * max(scale, smallest_scale)
            fault = worst.fault
            if not fault and not error <= limit:
                fault = f"{name} differs from the float64 answer by {error:.2g}; {limit:.2g} is allowed"
            worst = Verdict(max(worst.error, error / scale if scale else 0.0), fault)
        return worst

    def _errors_of_reference(self, dtype: torch.dtype) -> list[float]:
        if dtype not in self._plain_errors:
            _, values = self._run(self.reference, dtype)
            self._plain_errors[dtype] = [_distance(*pair) for pair in zip(values, self.exact, strict=True)]
        return self._plain_errors[dtype]

    def _run(self, contender: Contender, dtype: torch.dtype) -> tuple[list[str], list[Tensor]]:
        """Return the names of the output and of the gradients, and their values in float64."""
        with full_precision():
            step = prepare(self.case, contender, self.pass_, dtype)
            out = step.forward()
            gradients = step.backward(out)
        names = ["output", *(f"gradient of {name}" for name in step.gradient_names)]
        return names, [t.detach().double() for t in (out, *gradients)]


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
