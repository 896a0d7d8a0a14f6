"""How light a face is: the mean CIELAB L* of the middle of its crop, which divides faces into darker and lighter ones.

The middle is mostly skin, but its lightness also depends on the light and the exposure: a group is of faces that are
darker in the picture, of skin or of light, not of people.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from ..dataset.batches import Batch, EvalBatches, load
from ..dataset.images import Images
from ..media.faces import DARK
from .bootstrap import evaluate_with_intervals
from .thresholds import Floats, Labels, at_thresholds

MIDDLE = 0.4
"""The side of the middle over that of the crop: about half the face's box, in prepare.py's crops of 1.3 boxes."""
READ_TOGETHER = 32  # images


def face_lightness(crop: NDArray[np.uint8]) -> float:
    """Mean L*, from 0 (black) to 100 (white), of the central square of a face crop, uint8 RGB (H, W, 3)."""
    height, width = crop.shape[:2]
    side = max(1, round(MIDDLE * min(height, width)))
    top, left = (height - side) // 2, (width - side) // 2
    middle = crop[top : top + side, left : left + side].astype(np.float32) / 255
    return float(cv2.cvtColor(middle, cv2.COLOR_RGB2LAB)[..., 0].mean(dtype=np.float64))


def lightness_of(images: Images, workers: int | None = None) -> Floats:
    """The lightness (N,) of each image's face; NaN where the face is not known to be in the middle.

    It is measured at the size in which a crop is stored, so that the groups are the same for every network.
    """
    lightness = np.full(len(images), np.nan)
    batches = _LightnessBatches(images)
    loaded = load(batches, workers)
    for found, _, indices in tqdm(loaded, "lightness", len(batches), leave=False, disable=None, unit="batch"):
        lightness[indices.numpy()] = found.numpy()
    return lightness


class _LightnessBatches(EvalBatches):
    """Of the images whose face is in the middle, the lightness (B,) in place of the pixels."""

    def __init__(self, images: Images) -> None:
        self.images = images
        known = torch.from_numpy(np.flatnonzero(images.face_in_middle))
        self.batches = known.split(READ_TOGETHER) if len(known) else ()

    def __getitem__(self, step: int) -> Batch:
        indices = self.batches[step]
        found = [face_lightness(self.images.crop(index)) for index in indices.tolist()]
        return torch.tensor(found, dtype=torch.float64), torch.from_numpy(self.images.labels)[indices], indices


def figures_by_lightness(
    lightness: Floats,
    videos: Sequence[str],
    labels: Labels,
    scores: Floats,
    from_val: float | None,
    resamples: int,
    seed: int,
) -> dict[str, Any] | None:
    """The figures by image of the darker and of the lighter faces; None if no image has a known lightness."""
    if np.isnan(lightness).all():
        return None
    found: dict[str, Any] = {"dark_below": DARK, "n_unknown": int(np.isnan(lightness).sum())}
    for name, chosen in (("darker", lightness < DARK), ("lighter", lightness >= DARK)):
        mine = np.array(videos, dtype=object)[chosen].tolist()
        found[name] = _figures(mine, labels[chosen], scores[chosen], from_val, resamples, seed)
    return found


def _figures(
    videos: Sequence[str], labels: Labels, scores: Floats, from_val: float | None, resamples: int, seed: int
) -> dict[str, Any]:
    """A group's counts, AUC and error rates by image; None for what a missing class, or a single video, leaves open."""
    n_real, n_fake = np.bincount(labels, minlength=2).tolist()
    n_videos = [len({video for video, of in zip(videos, labels, strict=True) if of == label}) for label in (0, 1)]
    auc, interval = None, None
    if n_real and n_fake:
        level = evaluate_with_intervals(videos, labels, scores, resamples, seed)["frame"]
        auc = level["auc"]
        interval = level["ci95"]["auc"] if resamples and min(n_videos) > 1 else None
    return {
        "n_real": n_real,
        "n_fake": n_fake,
        "n_videos": sum(n_videos),
        "auc": auc,
        **({"ci95": {"auc": interval}} if resamples else {}),
        "at_threshold": at_thresholds(videos, labels, scores, from_val, resamples, seed),
    }
