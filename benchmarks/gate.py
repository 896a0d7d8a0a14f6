"""The correctness gate of a case: only contenders whose output and gradients pass are timed."""

from __future__ import annotations

import torch

from benchmarks.cases import is_detector
from benchmarks.contenders import REFERENCE, Contender, find_contender
from benchmarks.prepared_steps import prepare
from panet_layers.measuring import gate
from panet_layers.measuring.cases import DTYPES, Case


class Gate:
    """Judges the contenders of one case and pass. The formulas of most are the reference.

    The modules of others promise nothing in half precision: they are judged in float32, which shows that they compute
    the same function.
    """

    def __init__(self, case: Case, pass_: str) -> None:
        self.case, self.pass_ = case, pass_
        self._gate = gate.Gate[Contender](self._run, whole_network=is_detector(case.layer))
        # An input that the formulas cannot take is reported once, not by each.
        self._gate.answer(find_contender(case.layer, REFERENCE), torch.float64)

    def judge(self, contender: Contender) -> gate.Verdict:
        """Return the verdict on a contender: in the case's precision, or in float32 where it promises no more."""
        dtype = DTYPES[self.case.dtype] if contender.promises_precision else torch.float32
        return self._gate.judge(contender, find_contender(self.case.layer, contender.same_as), dtype)

    def _run(self, contender: Contender, dtype: torch.dtype, seed: int) -> gate.Results:
        return prepare(self.case, contender, self.pass_, dtype, seed).results()
