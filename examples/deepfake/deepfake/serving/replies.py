"""What the page shows of an upload: predict.py's answer in words, and the pictures of predict.py and explain.py."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.figure import Figure
from torch import nn

from ..evaluating.metrics import THRESHOLD, shown
from ..evaluating.plots import png
from ..evaluating.summary_table import model_name
from ..media.file_kinds import is_video
from ..media.image_files import encode_rgb
from ..media.video import frame_indices
from ..predicting.answers import answer, explanation
from ..predicting.drawings import curve_figure, picture
from ..predicting.views import View, ViewFinder
from .limits import check_extent

FRAMES, HEAT_FRAMES = 32, 4  # of a video: scored, and with heat maps, as by predict.py and explain.py
BATCH, HEAT_BATCH = 32, 8
LONGEST_SIDE = 1200  # pixels of the picture on the page

NO_PROOF = (
    "No proof: the score of a network that was trained on particular forgeries. It can be wrong about others, and "
    "about real pictures unlike those that it has seen."
)


class Replies:
    """A detector behind the page.

    Args:
        model: in eval mode, on its device.
        config: the run's, as `load_run` returns it.
    """

    def __init__(self, model: nn.Module, config: dict[str, Any]) -> None:
        self.model, self.name = model, model_name(config["model"])
        self._finders = {crop: ViewFinder(crop, FRAMES, config["image_size"]) for crop in ("face", "none")}

    def reply(self, path: Path, crop: str) -> dict[str, Any]:
        """Words and pictures (as data URLs) of an image or video, ready for JSON. UserError as in predict.py."""
        check_extent(path)
        notes: list[str] = []
        result, views = answer(path, self._finders[crop], self.model, BATCH, report=notes.append)
        notes = [f"Of the video {note.removeprefix(f'{path}: ')}." for note in notes]
        probability = result["fake_probability"]
        seen = [view for view in views if view.probability is not None]
        some = [seen[i] for i in frame_indices(len(seen), HEAT_FRAMES)]
        _, heat = explanation(path, some, self.model, HEAT_BATCH, self.name)
        return {
            "name": path.name,
            "prediction": result["prediction"],
            "fake_probability": probability,
            "shown_probability": shown(probability),
            "words": " ".join([_words(result, path, views), *notes]),
            "picture": _picture_url(picture(path, views, probability)),
            "curve": _figure_url(curve_figure(views, probability, path.name)) if is_video(path) else None,
            "heat": _figure_url(heat),
        }


def _words(result: dict[str, Any], path: Path, views: list[View]) -> str:
    words = f"Called {result['prediction']}: scores of {THRESHOLD:.2f} or more are called fake."
    if is_video(path):
        faces = sum(view.probability is not None for view in views)
        words += f" The score is the mean of {faces} frames, of {len(views)} looked at."
    if (result["faces"] or 0) > 1:
        words += f" {result['faces']} faces were found in it; the largest is judged."
    return words


def _picture_url(pixels: np.ndarray) -> str:
    height, width = pixels.shape[:2]
    shrink = LONGEST_SIDE / max(height, width)
    if shrink < 1:
        size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return _url("image/jpeg", encode_rgb(pixels, ".jpg"))


def _figure_url(figure: Figure) -> str:
    return _url("image/png", png(figure))


def _url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
