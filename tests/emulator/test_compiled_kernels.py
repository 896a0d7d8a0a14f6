"""The layers' kernels, as compiled, within the budget of the plain formulas and without a finding.

`python -m pytest --emulate 90 -m emulated tests/emulator` runs what CI runs, `-m long` the sweep.
"""

import pytest
import torch

from tests.kernels.helpers import check_budget, fused_run
from tests.layers.cases import EmamCase, ScamCase, tensors

# Shapes for each way to launch: vectors of several lengths; sums over one program and over several; replicated lanes.
SHARE = [
    (EmamCase(2, 6, 2, 5, 4), "contiguous", torch.float32),
    (EmamCase(1, 22, 2, 38, 36), "channels_last", torch.bfloat16),
    (EmamCase(1, 11, 1, 33, 34), "strided", torch.float32),
    (EmamCase(1, 54, 2, 9, 13), "channels_last", torch.bfloat16),
    (ScamCase(1, 130, 8, 19, 19, norm="batch"), "contiguous", torch.float32),
    (ScamCase(2, 40, 8, 14, 13, mlp_bias=True, norm="batch"), "channels_last", torch.bfloat16),
]
SWEEP_EMAM = [
    EmamCase(2, 16, 2, 7, 5), EmamCase(1, 182, 2, 19, 19), EmamCase(1, 64, 2, 1, 37), EmamCase(1, 64, 2, 37, 1),
    EmamCase(2, 16, 2, 1, 1), EmamCase(1, 64, 2, 38, 38), EmamCase(3, 8, 8, 13, 17), EmamCase(1, 16, 2, 147, 147),
    EmamCase(2, 24, 3, 24, 32), EmamCase(1, 40, 8, 56, 56), EmamCase(1, 512, 2, 10, 10), EmamCase(1, 300, 1, 3, 66),
]  # fmt: skip
SWEEP_SCAM = [
    ScamCase(2, 16, 8, 7, 5), ScamCase(1, 91, 8, 19, 19, norm="batch"), ScamCase(1, 64, 8, 1, 37),
    ScamCase(1, 64, 8, 37, 1, norm="batch", training=False), ScamCase(2, 24, 8, 1, 1), ScamCase(1, 64, 8, 38, 38),
    ScamCase(3, 1, 8, 13, 17, norm="batch"), ScamCase(1, 512, 8, 10, 10), ScamCase(1, 8, 8, 147, 147, norm="batch"),
    ScamCase(2, 130, 8, 3, 1),
]  # fmt: skip
LAYOUTS = ("contiguous", "channels_last", "strided", "slice")
SWEEP = [
    pytest.param(case, layout, dtype, marks=pytest.mark.long)
    for case in (*SWEEP_EMAM, *SWEEP_SCAM)
    for layout in LAYOUTS
    for dtype in (torch.float32, torch.float16, torch.bfloat16)
    if layout in LAYOUTS[:2] or case.channels * case.height * case.width < 100_000
]


@pytest.mark.emulated
@pytest.mark.parametrize(("case", "layout", "dtype"), [*SHARE, *SWEEP], ids=str)
def test_within_the_budget_of_the_plain_formulas(case, layout, dtype, emulation):
    before = emulation.launches
    by_kernels = lambda layer, x, grad: fused_run(layer, x, grad, layout=layout)  # noqa: E731
    few = case.batch * case.channels * case.height * case.width < 10_000  # roundings that need draws to average out
    check_budget(by_kernels, case, dtype, 0.0, draws=10 if few else 2, device="cpu")
    assert emulation.launches > before


@pytest.mark.emulated
def test_three_runs_are_equal_bit_for_bit(emulation):
    case = EmamCase(1, 10, 2, 20, 8)
    x, grad = tensors(case, dtype=torch.float32)
    first, second, third = (fused_run(case.layer(dtype=torch.float32), x, grad) for _ in "123")
    assert all(torch.equal(first[name], other[name]) for other in (second, third) for name in first)
