"""A detector's answer to one file, and the heat maps of it: what predict.py and explain.py share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import nn

from ..common.cli import to_stderr
from ..dataset.images import to_unit_range
from ..evaluating.heatmaps import heat_maps
from ..evaluating.metrics import shown, verdict
from ..evaluating.picture_grids import heat_figure
from ..evaluating.scoring import probabilities, to_probabilities
from ..media.file_kinds import is_video
from .views import View, ViewFinder, listed, most_faces, prediction, rounded, scored, to_batch


def answer(
    path: Path,
    finder: ViewFinder,
    model: nn.Module,
    batch_size: int,
    amp: str = "none",
    report: Callable[[str], None] = to_stderr,
) -> tuple[dict[str, Any], list[View]]:
    """The prediction of an image or video, ready for JSON, and its views with their probabilities.

    `report` gets a line if frames of a video are damaged or missing. UserError if the file cannot be read, shows no
    face, or has a score that is not finite.
    """
    views = finder.views(path, report)
    scores = probabilities(model, to_batch(views), batch_size, amp)
    result = prediction(path, scores)
    views = scored(views, scores)
    result |= {"frames": listed(views)} if is_video(path) else {"box": rounded(views[0].box)}
    result["faces"] = most_faces(views)
    return result, views


def explanation(
    path: Path, views: Sequence[View], model: nn.Module, batch_size: int, model_name: str
) -> tuple[dict[str, Any], Figure]:
    """The prediction of a file from these views of it, and its heat maps: a row for each view that has pixels."""
    views = [view for view in views if view.pixels is not None]
    device = next(model.parameters()).device
    parts = to_batch(views).split(batch_size)
    seen = [item for part in parts for item in heat_maps(model, to_unit_range(part).to(device))]
    scores = to_probabilities(np.array([item.logit for item in seen]))
    result = prediction(path, scores)
    rows = []
    for view, score, item in zip(views, scores, seen, strict=True):
        text = f"{verdict(score)} ({shown(score)})"
        rows.append((f"frame {view.frame}\n{text}" if is_video(path) else text, item))
    return result, heat_figure(rows, f"{path.name}, {model_name}")
