"""The correctness gate: only contenders whose output and gradients agree with the float64 reference are timed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.cases import DTYPES, Case, is_detector
from benchmarks.contenders import REFERENCE, Contender, find_contender
from benchmarks.prepared_steps import prepare


class Verdict(NamedTuple):
    """`error`: the largest error of any tensor, relative to that tensor's largest value; `fault`: "" if passed."""

    error: float
    fault: str


class Gate:
    """Judges the contenders of one case and pass, by the float64 answer and by the plain formulas' own error.

    A result's error may be at most twice that of the contender whose function it computes (the reference, for most) in
    the same precision, plus rounding; in a whole network, eight times the largest of its tensors' relative errors. The
    modules of others promise nothing in half precision: they are judged in float32, which shows that they compute the
    same function.
    """

    def __init__(self, case: Case, pass_: str) -> None:
        self.case, self.pass_ = case, pass_
        self._answers: dict[tuple[str, torch.dtype], list[Tensor]] = {}
        self._answer(REFERENCE, torch.float64)  # an input that the formulas cannot take is reported once, not by each

    def judge(self, contender: Contender) -> Verdict:
        dtype = DTYPES[self.case.dtype] if contender.promises_precision else torch.float32
        exact_values = self._answer(contender.same_as, torch.float64)
        scales = [float(exact.abs().max()) for exact in exact_values]
        allowances = list(map(_distance, self._answer(contender.same_as, dtype), exact_values))
        if is_detector(self.case.layer):
            # After a hundred layers the errors of a tensor are chance; and torch's batch normalisation in channels_last
            # rounds more than the contiguous one.
            largest = max(error / scale for error, scale in zip(allowances, scales) if scale)
            allowances = [4 * largest * scale for scale in scales]
        # One rounding of the result, and some of its sums, which are in float32 or better.
        rounding = torch.finfo(dtype).eps + 16 * torch.finfo(torch.float32).eps
        # A gradient that cancels to nearly zero is judged on the scale of the others.
        smallest_scale = 1e-2 * max(scales)
        names, values = self._run(contender, dtype)
        worst = Verdict(0.0, "")
        for name, value, exact, allowance, scale in zip(names, values, exact_values, allowances, scales, strict=True):
            error = _distance(value, exact)
            limit = 2 * allowance + rounding * max(scale, smallest_scale)
            fault = worst.fault
            if not fault and not error <= limit:
                fault = f"{name} differs from the float64 answer by {error:.2g}; {limit:.2g} is allowed"
            worst = Verdict(max(worst.error, error / scale if scale else 0.0), fault)
        return worst

    def _answer(self, name: str, dtype: torch.dtype) -> list[Tensor]:
        """Return what the contender of this name computes, as a double."""
        if (name, dtype) not in self._answers:
            self._answers[name, dtype] = self._run(find_contender(self.case.layer, name), dtype)[1]
        return self._answers[name, dtype]

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
