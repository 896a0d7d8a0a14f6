"""The correctness gate: no contender is timed before its output and gradients stand beside the float64 reference's."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.cuda import full_precision
from benchmarks.registry import DTYPES, Case, Contender, contenders
from benchmarks.steps import Step, prepare


class Verdict(NamedTuple):
    """`error`: the largest deviation of any tensor, relative to that tensor's largest value; `fault`: "" if passed."""

    error: float
    fault: str


class Gate:
    """Judges the contenders of one case and pass, by the float64 answer and by the plain reference's own error.

    A result may be at most twice as far from the float64 answer as the reference in the same precision is, plus
    rounding. Baselines that are not ours make no promise on half precision: they are judged in float32, to show that
    they compute the same function.
    """

    def __init__(self, case: Case, pass_: str) -> None:
        self.case, self.pass_ = case, pass_
        self.reference = contenders(case.layer)[0]
        self.names, self.exact = self._run(self.reference, torch.float64)
        self._plain_errors: dict[torch.dtype, list[float]] = {}

    def judge(self, contender: Contender) -> Verdict:
        dtype = DTYPES[self.case.dtype] if contender.promises_precision else torch.float32
        plain = self._errors_of_reference(dtype)
        _, values = self._run(contender, dtype)
        worst = Verdict(0.0, "")
        for name, value, exact, allowance in zip(self.names, values, self.exact, plain, strict=True):
            error, scale = _distance(value, exact), float(exact.abs().max())
            limit = 2 * allowance + self._rounding(dtype) * max(scale, self._smallest_scale())
            fault = worst.fault
            if not fault and not error <= limit:
                fault = f"{name} is {error:.2g} off the float64 answer, where {limit:.2g} is allowed"
            worst = Verdict(max(worst.error, error / scale if scale else 0.0), fault)
        return worst

    def _errors_of_reference(self, dtype: torch.dtype) -> list[float]:
        if dtype not in self._plain_errors:
            _, values = self._run(self.reference, dtype)
            self._plain_errors[dtype] = [_distance(*pair) for pair in zip(values, self.exact, strict=True)]
        return self._plain_errors[dtype]

    def _run(self, contender: Contender, dtype: torch.dtype) -> tuple[list[str], list[Tensor]]:
        with full_precision():
            return results(prepare(self.case, contender, self.pass_, dtype))

    @staticmethod
    def _rounding(dtype: torch.dtype) -> float:
        """One rounding of the result and a few of the sums behind it, which are float32 or better."""
        return torch.finfo(dtype).eps + 16 * torch.finfo(torch.float32).eps

    def _smallest_scale(self) -> float:
        """A gradient that is zero but for cancellation is judged on the scale of the others."""
        return 1e-2 * max(float(exact.abs().max()) for exact in self.exact)


def results(step: Step) -> tuple[list[str], list[Tensor]]:
    """The output and the gradients of a step, with their names, in float64."""
    out = step.forward()
    gradients = step.backward(out) if step.backward else ()
    names = ["output", *(f"gradient of {name}" for name in step.gradient_names)]
    return names, [t.detach().double() for t in (out, *gradients)]


def _distance(value: Tensor, exact: Tensor) -> float:
    """The largest absolute difference; infinite where the value is not finite."""
    difference = (value.reshape(exact.shape) - exact).abs().max().item()
    return difference if difference == difference else float("inf")
