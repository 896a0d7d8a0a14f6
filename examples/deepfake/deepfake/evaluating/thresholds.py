"""Error rates by image at a threshold, their intervals, and the threshold that fits the val split best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bootstrap import draw_all, interval_of
from .metrics import THRESHOLD

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

NEEDED_CLASSES = {"acc": (0, 1), "balanced_acc": (0, 1), "fpr": (0,)}
"""The labels that each rate needs: accuracies of one class alone do not compare with others."""


def fit_threshold(labels: Labels, scores: Floats) -> float | None:
    """The threshold with the highest balanced accuracy (Youden's J): a middle between two neighbouring scores.

    Of several equally good ones the highest, which calls the fewest real images fake. None if all scores are equal.
    `labels` must hold both classes.
    """
    distinct = np.unique(scores)
    if len(distinct) < 2:
        return None
    low, high = distinct[:-1], distinct[1:]
    n_called = {label: _at_least(scores[labels == label], high) for label in (0, 1)}
    n_real, n_fake = np.bincount(labels, minlength=2)
    youden = n_called[1] * n_real - n_called[0] * n_fake  # J times both counts: whole numbers, so that ties are exact
    best = np.flatnonzero(youden == youden.max())[-1]
    middle = (low[best] + high[best]) / 2
    return float(middle if middle > low[best] else high[best])  # between two neighbouring floats there is no middle


def _at_least(scores: Floats, thresholds: Floats) -> NDArray[np.int64]:
    """How many scores are at or above each threshold."""
    return len(scores) - np.searchsorted(np.sort(scores), thresholds, side="left")


def at_thresholds(
    videos: Sequence[str], labels: Labels, scores: Floats, from_val: float | None, resamples: int, seed: int
) -> dict[str, dict[str, Any] | None]:
    """`error_rates` at 0.5 and at the threshold from val: {"0.5": {...}, "from_val": {...} or None}."""
    return {
        name: None if threshold is None else error_rates(videos, labels, scores, threshold, resamples, seed)
        for name, threshold in ((str(THRESHOLD), THRESHOLD), ("from_val", from_val))
    }


def error_rates(
    videos: Sequence[str], labels: Labels, scores: Floats, threshold: float, resamples: int, seed: int
) -> dict[str, Any]:
    """`acc`, `balanced_acc` and `fpr` (the share of the real images called fake) by image, and their `ci95`.

    A rate is None if a class that it needs is missing; its interval also if such a class has one video only, whose
    resamples are all the same. Without resamples there is no `ci95`.
    """
    number = {name: index for index, name in enumerate(dict.fromkeys(videos))}
    video_of = np.array([number[name] for name in videos], dtype=np.int64)
    images = np.bincount(video_of, minlength=len(number))
    called = np.bincount(video_of, weights=scores >= threshold, minlength=len(number))
    label_of = np.zeros(len(number), dtype=np.int64)
    label_of[video_of] = labels
    n_videos = np.bincount(label_of, minlength=2)

    def rates(counts: Floats) -> dict[str, Floats]:
        """The rates (R,) with each of V videos counted `counts` (R, V) times."""
        fake = label_of == 1
        n_fake, n_real = (counts[:, of] @ images[of] for of in (fake, ~fake))
        hits, alarms = (counts[:, of] @ called[of] for of in (fake, ~fake))
        with np.errstate(invalid="ignore"):  # 0 / 0 where a class is missing
            tpr, fpr = hits / n_fake, alarms / n_real
            acc = (hits + n_real - alarms) / (n_fake + n_real)
        return {"acc": acc, "balanced_acc": (tpr + 1 - fpr) / 2, "fpr": fpr}

    def known(name: str, least: int) -> bool:
        return all(n_videos[label] >= least for label in NEEDED_CLASSES[name])

    plain = rates(np.ones((1, len(images))))
    found: dict[str, Any] = {name: float(plain[name][0]) if known(name, 1) else None for name in NEEDED_CLASSES}
    if resamples:
        parts = [rates(counts) for counts in draw_all(label_of, resamples, seed, max(1, len(images)))]
        found["ci95"] = {
            name: interval_of(np.concatenate([part[name] for part in parts])) if known(name, 2) else None
            for name in NEEDED_CLASSES
        }
    return found
