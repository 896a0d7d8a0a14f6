"""How time is measured: contenders in turn, round by round, and a statistic that disturbed rounds do not move.

On shared cores a parallel region now and then waits milliseconds for a thread that another process holds up. Such
rounds are found by comparing each sample with its contender's lower quartile, and left out of the pair's statistic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from statistics import median, quantiles
from time import perf_counter
from typing import NamedTuple

WARM_UPS = 3
SAMPLE_SECONDS = 0.002  # short steps are repeated to fill a sample
STALLED = 1.25  # a sample this much above its contender's lower quartile was disturbed
LEAST_KEPT = 3
PATIENCE_SECONDS = 30  # after this no more rounds are added for the disturbed ones


Sample = Callable[[Callable[[], object], int], float]


class Timing(NamedTuple):
    """`speedup`: the median over the kept rounds of baseline's time / own time, both of the same round."""

    milliseconds: float
    speedup: float
    kept: int
    rounds: int


def measure(
    steps: Mapping[str, Callable[[], object]],
    rounds: int,
    sample: Sample | None = None,
    clock: Callable[[], float] = perf_counter,
) -> dict[str, Timing]:
    """Time the steps against the first of them; up to three times as many rounds where half are disturbed.

    `sample(step, calls)`: the seconds that one of so many calls takes; by the clock, if not given.
    """
    sample = sample or partial(_sample, clock=clock)
    calls = {name: _calls_per_sample(step, sample) for name, step in steps.items()}
    samples: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    deadline = clock() + PATIENCE_SECONDS
    for done in range(3 * rounds):
        if done >= rounds and (clock() > deadline or min(t.kept for t in compare(samples).values()) >= rounds / 2):
            break
        # Start each round with another contender, so that none always follows the same one.
        for name in names[done % len(names) :] + names[: done % len(names)]:
            steps[name]()  # untimed: the allocator and the caches as this contender leaves them, not the one before
            samples[name].append(sample(steps[name], calls[name]))
    return compare(samples)


def compare(samples: dict[str, list[float]]) -> dict[str, Timing]:
    """Seconds per round of each contender, the baseline first -> the statistic of each."""
    baseline = next(iter(samples.values()))
    return {name: _compare(baseline, own) for name, own in samples.items()}


def _compare(baseline: list[float], own: list[float]) -> Timing:
    kept = _calm_rounds(baseline, own)
    ratio = median(baseline[i] / own[i] for i in kept)
    return Timing(1e3 * median(own[i] for i in kept), ratio, len(kept), len(own))


def _calm_rounds(*columns: list[float]) -> list[int]:
    """The rounds in which no column was disturbed; the calmest few where there are fewer than that."""
    lows = [_lower_quartile(column) for column in columns]
    disturbance = [max(t / low for t, low in zip(row, lows)) for row in zip(*columns, strict=True)]
    calm = sorted(range(len(disturbance)), key=disturbance.__getitem__)
    count = sum(d <= STALLED for d in disturbance)
    return calm[: max(count, LEAST_KEPT)]


def _lower_quartile(values: list[float]) -> float:
    return quantiles(values, n=4, method="inclusive")[0] if len(values) > 1 else values[0]


def _calls_per_sample(step: Callable[[], object], sample: Sample) -> int:
    seconds = min(sample(step, 1) for _ in range(WARM_UPS))
    return max(1, min(200, round(SAMPLE_SECONDS / max(seconds, 1e-9))))


def _sample(step: Callable[[], object], calls: int, clock: Callable[[], float]) -> float:
    start = clock()
    for _ in range(calls):
        step()
    return (clock() - start) / calls
