"""The criterion, fixed before anything is trained: paired differences, Holm's correction, and the verdict of an arm.

All numbers are points of accuracy. A difference is between two arms with the same seed: the same weights at the start
and the same batches.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from scipy import stats

from deepfake.reproducing.table_one import Cell

from .arms import ARMS, NOTHING, PLACEBOS

LEVEL, POWER, MOST_SEEDS = 0.05, 0.8, 1000
CRITERION = {
    "measure": "accuracy on the test images after the last step",
    "test": "Student's t of the paired differences over the seeds, two-sided",
    "level": LEVEL,
    "correction": "Holm's, over all arms compared with nothing, and over the layers compared with the placebos",
    "helps": "better than nothing, and better than every placebo",
    "hurts": "worse than nothing",
}

HELPS, HURTS, NO_EVIDENCE = "helps", "hurts", "no evidence"
NOT_MORE = "better than nothing, no evidence that it is more than a placebo"
UNCOMPARED = "better than nothing, not compared with a placebo"
BETTER, WORSE = "better than nothing", "worse than nothing"  # of a placebo


class Judged(NamedTuple):
    """An arm, judged.

    accuracy: over the seeds.
    differences: paired, from nothing and from each placebo in the trial.
    p: of the difference from nothing, after Holm's correction; None for nothing itself.
    verdict: of the arm; "" for nothing.
    seeds_for_this, seeds_for_a_point: how many seeds would show the measured difference from nothing, and one of a
        point; None: over MOST_SEEDS, or not known, as seeds have not differed.
    """

    arm: str
    accuracy: Cell
    differences: dict[str, Cell]
    p: float | None = None
    verdict: str = ""
    seeds_for_this: int | None = None
    seeds_for_a_point: int | None = None


def judge(accuracies: Mapping[str, Sequence[float]]) -> list[Judged]:
    """Every arm of a finished trial: `accuracies` of each arm, in %, in the order of the seeds."""
    others = [arm for arm in accuracies if arm != NOTHING]
    placebos = [arm for arm in others if arm in PLACEBOS]
    layers = [arm for arm in others if arm not in PLACEBOS]
    against = [NOTHING, *placebos]
    cells = {
        arm: {other: difference(accuracies[arm], accuracies[other]) for other in against if other != arm}
        for arm in others
    }
    p = dict(zip(others, holm([p_value(cells[arm][NOTHING]) for arm in others]), strict=True))
    # An arm has to beat all placebos, so that the largest of these p counts: no correction for their number.
    worst = [max((p_value(cells[arm][placebo]) for placebo in placebos), default=1.0) for arm in layers]
    p_placebos = dict(zip(layers, holm(worst), strict=True))
    found = [Judged(NOTHING, Cell(tuple(accuracies[NOTHING])), {})]
    for arm in others:
        plain, mine = cells[arm][NOTHING], [cells[arm][placebo] for placebo in placebos if placebo != arm]
        beats = None if arm in PLACEBOS or not mine else p_placebos[arm] < LEVEL and all(cell.mean > 0 for cell in mine)
        verdict = _verdict(arm, p[arm] < LEVEL, plain.mean, beats)
        needed = [seeds_needed(gain, plain.spread, LEVEL / len(others)) for gain in (plain.mean, 1.0)]
        found.append(Judged(arm, Cell(tuple(accuracies[arm])), cells[arm], p[arm], verdict, *needed))
    return found


def _verdict(arm: str, differs: bool, mean: float, beats_placebos: bool | None) -> str:
    if not differs:
        return NO_EVIDENCE
    if ARMS[arm].placebo:
        return BETTER if mean > 0 else WORSE
    if mean < 0:
        return HURTS
    return UNCOMPARED if beats_placebos is None else HELPS if beats_placebos else NOT_MORE


def difference(one: Sequence[float], other: Sequence[float]) -> Cell:
    """The paired differences, one minus other."""
    return Cell(tuple(a - b for a, b in zip(one, other, strict=True)))


def p_value(cell: Cell) -> float:
    """Of a mean of 0, by Student's t, two-sided. 1 where all differences are equal: they show no spread to judge by."""
    if not cell.spread:
        return 1.0
    t = cell.mean / (cell.spread / math.sqrt(len(cell.values)))
    return float(2 * stats.t.sf(abs(t), len(cell.values) - 1))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p (Scandinavian Journal of Statistics, 1979): below a level where his procedure rejects at it."""
    adjusted, largest = [0.0] * len(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        largest = max(largest, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = largest
    return adjusted


def seeds_needed(gain: float, spread: float | None, level: float) -> int | None:
    """How many seeds show a true mean difference of `gain` with a probability of POWER; None: over MOST_SEEDS.

    spread: standard deviation of the paired differences. level: of the two-sided test, Holm's first, which is the
        strictest.
    """
    if not spread or not gain:
        return None
    counts = range(2, MOST_SEEDS + 1)
    first = bisect_left(counts, POWER, key=lambda count: power(abs(gain) / spread, count, level))
    return counts[first] if first < len(counts) else None


def power(effect: float, count: int, level: float) -> float:
    """The probability that a paired t test of `count` differences finds a mean of `effect` standard deviations.

    In its own direction: the chance of a difference in the other one is left out.
    """
    critical, shift = float(stats.t.isf(level / 2, count - 1)), effect * math.sqrt(count)
    found = float(stats.nct.sf(critical, count - 1, shift))
    return found if math.isfinite(found) else float(shift > critical)
