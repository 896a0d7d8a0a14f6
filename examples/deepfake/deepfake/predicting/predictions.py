"""A prediction as numbers: the scores of an input's frames, and what predict.py and explain.py print as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..evaluating.metrics import verdict
from ..evaluating.scoring import check_finite
from ..media.tracks import Box
from .views import View


class FrameScore(NamedTuple):
    """The fake probability of one frame and the box of its face; both are None where no face was found."""

    frame: int
    probability: float | None
    box: Box | None


def frame_scores(views: Sequence[View], scores: NDArray[np.float64]) -> list[FrameScore]:
    """Every view with its score; `scores` has one for each view that has pixels."""
    left = iter(scores.tolist())
    return [FrameScore(view.frame, None if view.pixels is None else next(left), view.box) for view in views]


def prediction(path: Path, scores: NDArray[np.float64]) -> dict[str, Any]:
    """Path, mean fake probability and prediction of an input. UserError unless all scores are finite."""
    check_finite(scores, [str(path)] * len(scores))
    probability = float(scores.mean())
    return {"path": str(path), "fake_probability": probability, "prediction": verdict(probability)}


def listed(frames: Sequence[FrameScore]) -> list[dict[str, Any]]:
    """The frames that have a probability, ready for JSON."""
    return [
        {"frame": item.frame, "fake_probability": item.probability, "box": rounded(item.box)}
        for item in frames
        if item.probability is not None
    ]


def rounded(box: Box | None) -> list[float] | None:
    """A box to a tenth of a pixel, ready for JSON."""
    return None if box is None else [round(side, 1) for side in box]
