"""Accuracy, AUC, AP and EER, by frame and by video.

A score is the probability that an image is fake, in [0, 1]; a label is 0 for real and 1 for fake. The score of a video
is the mean of its frames' probabilities (not of their logits), as in most benchmarks of the field.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import accuracy_score, average_precision_score, balanced_accuracy_score, roc_auc_score, roc_curve

from ..common.cli import UserError

THRESHOLD = 0.5
"""An image with at least this probability is called fake."""


def verdict(score: float) -> str:
    """The prediction for a score: "fake" from THRESHOLD on, else "real"."""
    return "fake" if score >= THRESHOLD else "real"


def shown(score: float) -> str:
    """A score with two decimals; with more where two would be on the other side of THRESHOLD."""
    texts = (f"{score:.{digits}f}" for digits in range(2, 20))
    return next(text for text in texts if verdict(float(text)) == verdict(score))


class VideoScores(NamedTuple):
    """Name, label and score of each video, in the order in which the videos first appear."""

    videos: list[str]
    labels: NDArray[np.int64]
    scores: NDArray[np.float64]


def binary_metrics(labels: ArrayLike, scores: ArrayLike) -> dict[str, float | int]:
    """`acc` and `balanced_acc` at a threshold of 0.5, `auc`, `ap`, `eer`, and the class counts `n_real` and `n_fake`.

    `scores` (N,) are in [0, 1], `labels` (N,) 0 for real and 1 for fake, the positive class. All metrics are in [0, 1].

    Raises:
        UserError: different lengths, no scores, one class only, a label that is not 0 or 1, or a score that is not a
            finite number in [0, 1].
    """
    y, s = _checked(labels, scores)
    outside = np.flatnonzero((s < 0) | (s > 1))
    if outside.size:
        raise UserError(f"score {s[outside[0]]:g} at position {outside[0]}; scores must be probabilities, 0 to 1")
    called_fake = s >= THRESHOLD
    return {
        "acc": float(accuracy_score(y, called_fake)),
        "balanced_acc": float(balanced_accuracy_score(y, called_fake)),
        "auc": float(roc_auc_score(y, s)),
        "ap": float(average_precision_score(y, s)),
        "eer": equal_error_rate(y, s),
        "n_real": int((y == 0).sum()),
        "n_fake": int((y == 1).sum()),
    }


def equal_error_rate(labels: ArrayLike, scores: ArrayLike) -> float:
    """The error rate at which false positive and false negative rates are equal, on the interpolated ROC curve.

    Along the curve, fpr + tpr - 1 increases strictly from -1 to 1; the EER is the fpr where it crosses zero. Only the
    order of the scores matters. Raises UserError like `binary_metrics`, but takes scores on any scale.
    """
    fpr, tpr, _ = roc_curve(*_checked(labels, scores))
    return float(np.interp(0.0, fpr + tpr - 1.0, fpr))


def video_scores(videos: Sequence[str], labels: ArrayLike, scores: ArrayLike) -> VideoScores:
    """The mean score of each video's frames; `videos` (N,) holds "method/id", so that methods never share a video.

    Raises:
        UserError: different lengths, a score that is not finite, or a video with both real and fake frames.
    """
    y, s = _checked(labels, scores, both_classes=False)
    if len(videos) != len(y):
        raise UserError(f"{len(videos)} video names for {len(y)} labels; give one name for each")
    names = list(dict.fromkeys(videos))
    number = {name: i for i, name in enumerate(names)}
    group = np.array([number[name] for name in videos], dtype=np.int64)
    frames = np.bincount(group, minlength=len(names))
    fakes = np.bincount(group, weights=y, minlength=len(names))
    mixed = np.flatnonzero((fakes > 0) & (fakes < frames))
    if mixed.size:
        raise UserError(f"video {names[mixed[0]]!r} has both real and fake frames; a video must have one label")
    means = np.bincount(group, weights=s, minlength=len(names)) / frames
    return VideoScores(names, (fakes > 0).astype(np.int64), np.clip(means, s.min(), s.max()))


def evaluate_scores(videos: Sequence[str], labels: ArrayLike, scores: ArrayLike) -> dict[str, dict[str, float | int]]:
    """`binary_metrics` of the images ("frame") and of the videos that they belong to ("video")."""
    grouped = video_scores(videos, labels, scores)
    return {"frame": binary_metrics(labels, scores), "video": binary_metrics(grouped.labels, grouped.scores)}


def _checked(
    labels: ArrayLike, scores: ArrayLike, both_classes: bool = True
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Labels as int64 and scores as float64, both (N,). UserError if they cannot be compared."""
    y, s = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if y.ndim != 1 or y.shape != s.shape:
        raise UserError(f"labels of shape {y.shape} and scores of shape {s.shape}; give one score for each label")
    if not y.size:
        raise UserError("no images to score; give at least one real and one fake")
    unknown = np.flatnonzero((y != 0) & (y != 1))
    if unknown.size:
        raise UserError(f"label {y[unknown[0]]} at position {unknown[0]}; labels must be 0 (real) or 1 (fake)")
    broken = np.flatnonzero(~np.isfinite(s))
    if broken.size:
        raise UserError(f"score {s[broken[0]]} at position {broken[0]}; scores must be finite")
    if both_classes and len(np.unique(y)) == 1:
        raise UserError(f"only {'fake' if y[0] else 'real'} images ({y.size}): AUC needs both classes")
    return y.astype(np.int64), s
