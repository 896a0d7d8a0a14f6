"""does_it_help.py's statistics equal those worked out by hand, and its verdicts say no more than they show."""

from __future__ import annotations

import math

import numpy as np
import pytest

from deepfake.reproducing.table_one import Cell
from trial import criterion
from trial.arms import ARMS, NOTHING
from trial.criterion import HELPS, HURTS, NO_EVIDENCE, NOT_MORE, UNCOMPARED, holm, judge, p_value, power, seeds_needed


def test_p_of_three_differences_by_hand() -> None:
    """Student's t has a formula for two degrees of freedom: p = 1 - t / sqrt(2 + t^2), two-sided."""
    t = 2 / (1 / math.sqrt(3))
    assert p_value(Cell((1.0, 2.0, 3.0))) == pytest.approx(1 - t / math.sqrt(2 + t * t), rel=1e-12)
    assert p_value(Cell((-1.0, -2.0, -3.0))) == p_value(Cell((1.0, 2.0, 3.0)))


def test_differences_are_paired_by_seed() -> None:
    cell = criterion.difference([11.0, 22.0, 33.0], [10.0, 20.0, 30.0])
    assert cell.values == (1.0, 2.0, 3.0) and cell.mean == 2 and cell.spread == 1
    assert cell.interval == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)  # t of 97.5 %, 2 degrees of freedom


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([0.04]) == [0.04] and holm([]) == []


def test_without_any_effect_a_trial_finds_one_in_about_five_of_a_hundred() -> None:
    """Without Holm's correction it would be one in four or five."""
    draw, trials = np.random.default_rng(0), 300
    wrong = 0
    for _ in range(trials):
        plain, *others = draw.normal(90, 1, (8, 10))
        wrong += min(holm([p_value(criterion.difference(arm, plain)) for arm in others])) < 0.05
    assert 0.01 < wrong / trials < 0.08


@pytest.mark.parametrize("effect, seeds", [(1.0, 10), (0.5, 34), (0.2, 199)])
def test_seeds_needed_are_those_of_power_tables(effect: float, seeds: int) -> None:
    """Paired t test, two-sided 5 %, power 80 %: Cohen's tables and G*Power."""
    assert seeds_needed(effect, 1.0, 0.05) == seeds == seeds_needed(-3 * effect, 3.0, 0.05)


def test_power_is_how_often_a_simulated_trial_finds_the_effect() -> None:
    differences = np.random.default_rng(1).normal(0.8, 1, (20_000, 12))
    t = differences.mean(1) / (differences.std(1, ddof=1) / math.sqrt(12))
    assert power(0.8, 12, 0.05) == pytest.approx((t > 2.200985).mean(), abs=0.01)


def test_seeds_are_not_known_without_a_spread_or_beyond_the_most() -> None:
    assert seeds_needed(1.0, 0.0, 0.05) is None
    assert seeds_needed(0.0, 1.0, 0.05) is None
    assert seeds_needed(0.01, 1.0, 0.05) is None
    assert seeds_needed(1000.0, 1.0, 0.05) == 2


NOISE = np.array([0.3, -0.2, 0.1, -0.4, 0.2, 0.0, -0.1, 0.4, -0.3, 0.05])
SEEDS = np.array([80.0, 85, 82, 88, 79, 84, 86, 81, 83, 87])  # far more spread than the differences


def verdicts(**gains: float) -> dict[str, str]:
    """The verdicts of arms whose accuracy is that of nothing, a gain, and a little noise of their own."""
    arms = {NOTHING: SEEDS.tolist()}
    for shift, name in enumerate(ARMS):
        if name in gains:
            arms[name] = (SEEDS + gains[name] + np.roll(NOISE, shift)).tolist()
    return {arm.arm: arm.verdict for arm in judge(arms)}


def test_a_layer_helps_only_if_it_beats_nothing_and_every_placebo() -> None:
    found = verdicts(emam=2, scam=2, se=-2, eca=0, constant=0, frozen=0)
    assert found == {"nothing": "", "emam": HELPS, "scam": HELPS, "se": HURTS, "eca": NO_EVIDENCE} | {
        "constant": NO_EVIDENCE, "frozen": NO_EVIDENCE,
    }  # fmt: skip
    found = verdicts(emam=2, scam=4, constant=2, frozen=0)
    assert (found["emam"], found["scam"], found["constant"]) == (NOT_MORE, HELPS, criterion.BETTER)
    found = verdicts(emam=2, constant=0, frozen=2)
    assert (found["emam"], found["frozen"]) == (NOT_MORE, criterion.BETTER)
    assert verdicts(emam=2, constant=4)["emam"] == NOT_MORE


def test_without_placebos_a_verdict_says_so() -> None:
    assert verdicts(emam=2) == {"nothing": "", "emam": UNCOMPARED}
    assert verdicts(emam=-2) == {"nothing": "", "emam": HURTS}


def test_differences_without_a_spread_are_no_evidence() -> None:
    """Two seeds of a small test often differ by the same one image."""
    (_, arm) = judge({NOTHING: [50.0, 60.0], "emam": [60.0, 70.0]})
    assert (arm.p, arm.verdict, arm.seeds_for_this) == (1.0, NO_EVIDENCE, None)
