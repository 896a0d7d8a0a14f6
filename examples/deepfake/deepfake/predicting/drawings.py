"""What predict.py --annotate draws: an annotated picture of each input; of a video its curve and an annotated clip."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ..common.files import replacing
from ..evaluating import plots
from ..evaluating.metrics import THRESHOLD
from ..media.file_kinds import is_video
from ..media.image_files import encode_rgb, read_rgb
from ..media.tracks import Box
from ..media.video import decode_frames, frame_rate, frames_at, write_clip
from .annotation import annotated
from .inputs import ANNOTATED, DistinctNames
from .views import View

CRF = 18  # of the annotated clip: hard to tell from the source by eye


class Drawings:
    """Writes DIR/NAME.annotated.png of every input; of a video the curve too, and with `clip` the annotated video."""

    def __init__(self, folder: Path, clip: bool, model_name: str) -> None:
        self.folder, self.clip, self.model_name = folder, clip, model_name
        self._names = DistinctNames()

    def draw(self, path: Path, views: Sequence[View], probability: float) -> dict[str, str]:
        """Write the pictures of one input; returns their paths by kind."""
        start = self.folder / f"{self._names.of(path)}{ANNOTATED}"
        written = {"annotated": f"{start}.png"}
        with replacing(Path(written["annotated"])) as file:
            file.write(encode_rgb(picture(path, views, probability), ".png"))
        if is_video(path):
            written["curve"] = f"{start}.curve.png"
            figure = curve_figure(views, probability, f"{path.name}, {self.model_name}")
            plots.save_figure(figure, Path(written["curve"]))
        if is_video(path) and self.clip:
            written["clip"] = f"{start}.mp4"
            write_annotated(path, Path(written["clip"]), views)
        return written


def picture(path: Path, views: Sequence[View], probability: float) -> np.ndarray:
    """An image, or the middle one of a video's frames with a face, with box and probability; uint8 RGB."""
    shown = [view for view in views if view.probability is not None]
    middle = shown[len(shown) // 2]
    image = frames_at(path, (middle.frame,), report=lambda line: None)[0][1] if is_video(path) else read_rgb(path)
    return annotated(image, middle.box, probability)


def curve_figure(views: Sequence[View], mean: float, title: str) -> Figure:
    """Fake probability by frame number, and the mean, which is the video's; crosses mark frames without a face."""
    seen = {item.frame: item.probability for item in views if item.probability is not None}
    missing = [item.frame for item in views if item.probability is None]
    with plots.styled_figure(6.4, 2.9) as figure:
        axes = figure.add_subplot()
        axes.axhspan(THRESHOLD, 1, color=plots.ORANGE, alpha=0.06, linewidth=0)
        axes.axhline(THRESHOLD, color="black", linewidth=0.8, linestyle="--")
        axes.text(1.005, 0.98, "fake", transform=axes.transAxes, va="top")
        axes.text(1.005, 0.02, "real", transform=axes.transAxes, va="bottom")
        look: dict[str, Any] = {"marker": "o", "markersize": 3, "linewidth": 1.2, "clip_on": False}
        axes.plot(list(seen), list(seen.values()), color=plots.BLUE, label="frames", **look)
        axes.axhline(mean, color=plots.ORANGE, linewidth=1.4, linestyle=(0, (5, 1.5)), label=f"the video: {mean:.2f}")
        if missing:
            axes.plot(missing, [0.0] * len(missing), "x", color=plots.GREY, label="no face found", clip_on=False)
        axes.set(ylim=(0, 1), xlabel="frame", ylabel="fake probability", title=plots.wrapped(title, 88))
        axes.grid(color="0.92")
        axes.set_axisbelow(True)
        figure.legend(loc="outside lower center", ncols=3)
    return figure


def write_annotated(source: Path, target: Path, views: Sequence[View]) -> None:
    """Write every frame of a video with box and caption, as H.264 (yuv420p, no sound), at its own frame rate.

    Each frame shows the probability of the nearest scored frame; between two of them the box moves in a straight line.
    UserError if the video can't be read or the clip can't be written; no partial file is left.
    """
    write_clip(target, _drawn(source, views), CRF, frame_rate(source))


def _drawn(source: Path, views: Sequence[View]) -> Iterator[np.ndarray]:
    numbers = np.array([item.frame for item in views])
    for number, image in enumerate(decode_frames(source)):
        nearest = views[int(np.abs(numbers - number).argmin())]
        picture = annotated(image, box_at(views, number) if nearest.box else None, nearest.probability)
        height, width = picture.shape[:2]
        yield np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), "edge")


def box_at(views: Sequence[View], number: int) -> Box:
    """The face's box in any frame: linear between those found; before the first and after the last, equal to these."""
    boxes = np.array([item.box for item in views if item.box])
    numbers = [item.frame for item in views if item.box]
    x0, y0, x1, y1 = (float(np.interp(number, numbers, side)) for side in boxes.T)
    return x0, y0, x1, y1
