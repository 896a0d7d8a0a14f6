"""Time: contenders alternate, round by round; the statistic leaves out disturbed rounds.

On shared cores a parallel region sometimes waits milliseconds for a thread, because another process runs on its core.
Such rounds are found by comparing each sample with its contender's lower quartile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from statistics import median, quantiles
from time import perf_counter
from typing import NamedTuple

import torch

WARM_UPS = 3
SAMPLE_SECONDS = 0.002  # short steps are repeated to fill a sample
FLUSH_BYTES = 256 << 20  # larger than the L2 cache of any GPU
STALLED = 1.25  # a sample this much above its contender's lower quartile was disturbed
LEAST_KEPT = 3
PATIENCE_SECONDS = 30  # after this, no rounds are added to replace disturbed ones

Sample = Callable[[Callable[[], object], int], float]


class Timing(NamedTuple):
    """`speedup`: the median over the kept rounds of baseline's time / own time, both of the same round."""

    milliseconds: float
    speedup: float
    kept: int
    rounds: int

    def columns(self) -> dict[str, str]:
        """Return the same as columns of the file of results."""
        return {
            "milliseconds": f"{self.milliseconds:.4g}",
            "speedup": f"{self.speedup:.3g}",
            "rounds_kept": str(self.kept),
            "rounds": str(self.rounds),
        }


def measure(
    steps: Mapping[str, Callable[[], object]],
    rounds: int,
    sample: Sample | None = None,
    clock: Callable[[], float] = perf_counter,
) -> dict[str, Timing]:
    """Return the time of each step, compared with the first; up to three times as many rounds if half are disturbed.

    `sample(step, calls)`: seconds per call, from that many calls; by default from the clock.
    """
    sample = sample or partial(_sample, clock=clock)
    calls = {name: _calls_per_sample(step, sample) for name, step in steps.items()}
    samples: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    deadline = clock() + PATIENCE_SECONDS
    for done in range(3 * rounds):
        if done >= rounds and (clock() > deadline or min(t.kept for t in compare(samples).values()) >= rounds / 2):
            break
        # Each round starts with another contender, so that none always follows the same one.
        for name in names[done % len(names) :] + names[: done % len(names)]:
            steps[name]()  # untimed: allocator and caches are as this contender leaves them, not the previous one
            samples[name].append(sample(steps[name], calls[name]))
    return compare(samples)


def compare(samples: dict[str, list[float]]) -> dict[str, Timing]:
    """Return the statistic of each contender from its seconds in every round; the first is the baseline."""
    baseline = next(iter(samples.values()))
    return {name: _compare(baseline, own) for name, own in samples.items()}


def _compare(baseline: list[float], own: list[float]) -> Timing:
    kept = _calm_rounds(baseline, own)
    ratio = median(baseline[i] / own[i] for i in kept)
    return Timing(1e3 * median(own[i] for i in kept), ratio, len(kept), len(own))


def _calm_rounds(*columns: list[float]) -> list[int]:
    """Return the rounds in which no column was disturbed; at least the least disturbed `LEAST_KEPT`."""
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


class EventSampler:
    """Seconds per call between two events; the L2 cache is flushed before each.

    Eager steps start on an idle GPU, so the host's time to launch them counts. Graphs are queued behind the flush, so
    only the GPU's time counts.
    """

    def __init__(self) -> None:
        self.flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda")

    def __call__(self, step: Callable[[], object], calls: int) -> float:
        pairs = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(calls)]
        for start, end in pairs:
            self.flush.zero_()
            if not getattr(step, "graph", False):
                torch.cuda.synchronize()
            start.record()
            step()
            end.record()
        torch.cuda.synchronize()
        return sum(start.elapsed_time(end) for start, end in pairs) / calls / 1e3
