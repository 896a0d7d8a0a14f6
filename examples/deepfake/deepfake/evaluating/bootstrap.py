"""How sure a metric is: 95 % intervals by bootstrap over videos, for frames and for videos.

A video's frames resemble each other, so it is videos that are drawn anew, with replacement, as many reals and as many
fakes as there are; a frame counts as often as its video was drawn. The interval holds the middle 95 % of what the
resamples give (Efron's percentile interval). It says how far the figure depends on these test videos, and nothing of
training: for that, train several seeds. A fake and the real video it was made from are drawn apart, as if unrelated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .metrics import THRESHOLD, evaluate_scores, video_scores

CONFIDENCE = 0.95
RESAMPLES = 1000
SEED = 0
CHUNK = 4_000_000  # numbers in memory at a time, in each of a few arrays

Metrics = dict[str, Any]


def evaluate_with_intervals(
    videos: Sequence[str], labels: ArrayLike, scores: ArrayLike, resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, Metrics]:
    """`evaluate_scores`, "frame" and "video" each with `ci95`: {"acc": [low, high], ...}, all but the class counts.

    With `resamples` 0 there is no `ci95`. Raises UserError as `evaluate_scores` does.
    """
    levels: dict[str, Metrics] = dict(evaluate_scores(videos, labels, scores))
    if resamples:
        for level, drawn in resample(videos, labels, scores, resamples, seed).items():
            levels[level]["ci95"] = {name: _interval(values) for name, values in drawn.items()}
    return levels


def resample(
    videos: Sequence[str], labels: ArrayLike, scores: ArrayLike, resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """The metrics of each resample of the videos: {"frame": {"acc": (R,), ...}, "video": {...}}."""
    grouped = video_scores(videos, labels, scores)
    number = {name: i for i, name in enumerate(grouped.videos)}
    group = np.array([number[name] for name in videos])
    generator = np.random.default_rng(seed)
    y, s = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    parts: dict[str, list[dict[str, NDArray[np.float64]]]] = {"frame": [], "video": []}
    step = max(1, CHUNK // len(y))
    for first in range(0, resamples, step):
        counts = draw(grouped.labels, min(step, resamples - first), generator)
        parts["frame"].append(weighted_metrics(y, s, counts[:, group]))
        parts["video"].append(weighted_metrics(grouped.labels, grouped.scores, counts))
    return {
        level: {name: np.concatenate([part[name] for part in found]) for name in found[0]}
        for level, found in parts.items()
    }


def draw(labels: NDArray[np.int64], resamples: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """How often each video is in each resample: (R, V), each class drawn from itself, so that none is ever empty."""
    counts = np.empty((resamples, len(labels)))
    for row in counts:  # a row at a time, so that the resamples are the same in chunks of any size
        for label in (0, 1):
            of_class = np.flatnonzero(labels == label)
            row[of_class] = generator.multinomial(len(of_class), np.full(len(of_class), 1 / len(of_class)))
    return counts


def weighted_metrics(
    labels: NDArray[np.int64], scores: NDArray[np.float64], weights: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """The metrics of `metrics.binary_metrics` with each score counted `weights` (R, N) times, for R weightings at once.

    Both classes must have some weight in each row.
    """
    order = np.argsort(-scores, kind="stable")
    y, s, weights = labels[order], scores[order], weights[:, order]
    last_of_ties = np.flatnonzero(np.append(np.diff(s) != 0, True))
    hits = np.cumsum(weights * y, axis=1)[:, last_of_ties]  # fakes called fake, at each threshold
    alarms = np.cumsum(weights * (1 - y), axis=1)[:, last_of_ties]  # reals called fake
    start = np.zeros((len(weights), 1))
    tpr = np.hstack([start, hits / hits[:, -1:]])
    fpr = np.hstack([start, alarms / alarms[:, -1:]])

    called = np.searchsorted(-s[last_of_ties], -THRESHOLD, side="right")  # thresholds at which scores >= 0.5 are called
    right_fakes, right_reals = tpr[:, called], 1 - fpr[:, called]
    fakes, reals = hits[:, -1], alarms[:, -1]
    with np.errstate(invalid="ignore"):  # no weight above a threshold: no recall either, so nothing is added
        precision = np.nan_to_num(hits / (hits + alarms))
    return {
        "acc": (right_fakes * fakes + right_reals * reals) / (fakes + reals),
        "balanced_acc": (right_fakes + right_reals) / 2,
        "auc": (np.diff(fpr) * (tpr[:, 1:] + tpr[:, :-1]) / 2).sum(axis=1),
        "ap": (np.diff(tpr) * precision).sum(axis=1),
        "eer": _crossing(fpr, tpr),
    }


def _crossing(fpr: NDArray[np.float64], tpr: NDArray[np.float64]) -> NDArray[np.float64]:
    """The fpr at which fpr + tpr - 1, which never falls along a row, crosses zero, by linear interpolation."""
    excess = fpr + tpr - 1
    after = np.argmax(excess >= 0, axis=1)  # never the first point, which has -1
    rows = np.arange(len(excess))
    low, high = excess[rows, after - 1], excess[rows, after]
    share = -low / (high - low)
    return fpr[rows, after - 1] + share * (fpr[rows, after] - fpr[rows, after - 1])


def _interval(values: NDArray[np.float64]) -> list[float]:
    outside = 100 * (1 - CONFIDENCE) / 2
    return np.percentile(values, [outside, 100 - outside]).tolist()
