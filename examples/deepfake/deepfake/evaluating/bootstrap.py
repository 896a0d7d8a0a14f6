"""95 % intervals of the metrics, by frame and by video, by bootstrap over videos.

The frames of a video resemble each other. A resample therefore draws videos, with replacement: as many reals and as
many fakes as there are; a frame counts as often as its video was drawn. The interval holds the middle 95 % of the
resamples' metrics (Efron's percentile interval). It shows how much a metric depends on these test videos, not how much
on the training: for that, train several seeds. A fake and the real video it was made from are drawn independently.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .metrics import THRESHOLD, evaluate_scores, video_scores

CONFIDENCE = 0.95
RESAMPLES = 1000
SEED = 0
CHUNK = 4_000_000  # most numbers in each of a few arrays in memory

Metrics = dict[str, Any]


def evaluate_with_intervals(
    videos: Sequence[str], labels: ArrayLike, scores: ArrayLike, resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, Metrics]:
    """`evaluate_scores`, with `ci95` in "frame" and "video": {"acc": [low, high], ...} of all but the class counts.

    With `resamples=0` there is no `ci95`. Raises UserError as `evaluate_scores` does.
    """
    levels: dict[str, Metrics] = dict(evaluate_scores(videos, labels, scores))
    if resamples:
        for level, drawn in resample(videos, labels, scores, resamples, seed).items():
            levels[level]["ci95"] = {name: interval_of(values) for name, values in drawn.items()}
    return levels


def resample(
    videos: Sequence[str], labels: ArrayLike, scores: ArrayLike, resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """The metrics of each of R resamples: {"frame": {"acc": (R,), ...}, "video": {...}}."""
    grouped = video_scores(videos, labels, scores)
    number = {name: i for i, name in enumerate(grouped.videos)}
    group = np.array([number[name] for name in videos])
    y, s = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    parts: dict[str, list[dict[str, NDArray[np.float64]]]] = {"frame": [], "video": []}
    for counts in draw_all(grouped.labels, resamples, seed, len(y)):
        parts["frame"].append(weighted_metrics(y, s, counts[:, group]))
        parts["video"].append(weighted_metrics(grouped.labels, grouped.scores, counts))
    return {
        level: {name: np.concatenate([part[name] for part in found]) for name in found[0]}
        for level, found in parts.items()
    }


def draw_all(labels: NDArray[np.int64], resamples: int, seed: int, width: int) -> Iterator[NDArray[np.float64]]:
    """The counts of `draw` for all resamples, as many at a time as arrays with rows of `width` numbers allow."""
    generator = np.random.default_rng(seed)
    step = max(1, CHUNK // width)
    for first in range(0, resamples, step):
        yield draw(labels, min(step, resamples - first), generator)


def draw(labels: NDArray[np.int64], resamples: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """How often each of V videos is in each of R resamples: (R, V). Each class is drawn from itself."""
    counts = np.empty((resamples, len(labels)))
    for row in counts:  # row by row, so that the resamples do not depend on the size of a chunk
        for label in (0, 1):
            of_class = np.flatnonzero(labels == label)
            if len(of_class):
                row[of_class] = generator.multinomial(len(of_class), np.full(len(of_class), 1 / len(of_class)))
    return counts


def weighted_metrics(
    labels: NDArray[np.int64], scores: NDArray[np.float64], weights: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """`metrics.binary_metrics`, (R,) each, with each of N scores counted `weights` (R, N) times.

    Both classes must have a positive weight in each row.
    """
    order = np.argsort(-scores, kind="stable")
    y, s, weights = labels[order], scores[order], weights[:, order]
    last_of_ties = np.flatnonzero(np.append(np.diff(s) != 0, True))
    hits = np.cumsum(weights * y, axis=1)[:, last_of_ties]  # fakes called fake, at each threshold
    alarms = np.cumsum(weights * (1 - y), axis=1)[:, last_of_ties]  # reals called fake
    start = np.zeros((len(weights), 1))
    tpr = np.hstack([start, hits / hits[:, -1:]])
    fpr = np.hstack([start, alarms / alarms[:, -1:]])

    called = np.searchsorted(-s[last_of_ties], -THRESHOLD, side="right")  # thresholds of 0.5 and above
    right_fakes, right_reals = tpr[:, called], 1 - fpr[:, called]
    fakes, reals = hits[:, -1], alarms[:, -1]
    with np.errstate(invalid="ignore"):  # 0 / 0 if no weight is above a threshold: recall is 0 too
        precision = np.nan_to_num(hits / (hits + alarms))
    return {
        "acc": (right_fakes * fakes + right_reals * reals) / (fakes + reals),
        "balanced_acc": (right_fakes + right_reals) / 2,
        "auc": (np.diff(fpr) * (tpr[:, 1:] + tpr[:, :-1]) / 2).sum(axis=1),
        "ap": (np.diff(tpr) * precision).sum(axis=1),
        "eer": _crossing(fpr, tpr),
    }


def _crossing(fpr: NDArray[np.float64], tpr: NDArray[np.float64]) -> NDArray[np.float64]:
    """The fpr at which fpr + tpr - 1, which never decreases along a row, crosses zero, by linear interpolation."""
    excess = fpr + tpr - 1
    after = np.argmax(excess >= 0, axis=1)  # never the first point, which is -1
    rows = np.arange(len(excess))
    low, high = excess[rows, after - 1], excess[rows, after]
    share = -low / (high - low)
    return fpr[rows, after - 1] + share * (fpr[rows, after] - fpr[rows, after - 1])


def interval_of(values: NDArray[np.float64]) -> list[float]:
    """The bounds of the middle 95 % of a metric's resamples (R,)."""
    outside = 100 * (1 - CONFIDENCE) / 2
    return np.percentile(values, [outside, 100 - outside]).tolist()
