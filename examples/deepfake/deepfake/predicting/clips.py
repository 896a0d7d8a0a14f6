"""The scores of a video, drawn: the curve over its frames, and the video itself with box and caption."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from ..evaluating import plots
from ..evaluating.metrics import THRESHOLD
from ..media.tracks import Box
from ..media.video import decode_frames, frame_rate, write_clip
from .annotation import annotated
from .predictions import FrameScore

CRF = 18  # of the annotated clip: hard to tell from the source by eye


def curve_figure(frames: Sequence[FrameScore], mean: float, title: str) -> Figure:
    """Fake probability by frame number, and the mean, which is the video's; crosses mark frames without a face."""
    seen = [item for item in frames if item.probability is not None]
    missing = [item.frame for item in frames if item.probability is None]
    with matplotlib.rc_context(plots.STYLE):
        figure = Figure(figsize=(6.4, 2.9), layout="constrained")
        axes = figure.add_subplot()
        axes.axhspan(THRESHOLD, 1, color=plots.ORANGE, alpha=0.06, linewidth=0)
        axes.axhline(THRESHOLD, color="black", linewidth=0.8, linestyle="--")
        axes.text(1.005, 0.98, "fake", transform=axes.transAxes, va="top")
        axes.text(1.005, 0.02, "real", transform=axes.transAxes, va="bottom")
        x, y = [item.frame for item in seen], [item.probability for item in seen]
        axes.plot(x, y, color=plots.BLUE, marker="o", markersize=3, linewidth=1.2, label="frames", clip_on=False)  # type: ignore[arg-type]
        axes.axhline(mean, color=plots.ORANGE, linewidth=1.4, linestyle=(0, (5, 1.5)), label=f"the video: {mean:.2f}")
        if missing:
            axes.plot(missing, [0.0] * len(missing), "x", color=plots.GREY, label="no face found", clip_on=False)
        axes.set(ylim=(0, 1), xlabel="frame", ylabel="fake probability", title=plots.wrapped(title, 88))
        axes.grid(color="0.92")
        axes.set_axisbelow(True)
        figure.legend(loc="outside lower center", ncols=3)
    return figure


def write_annotated(source: Path, target: Path, frames: Sequence[FrameScore]) -> None:
    """Write every frame of a video with box and caption, as H.264 (yuv420p, no sound), at its own frame rate.

    Each frame shows the probability of the nearest scored frame; between two of them the box moves in a straight line.
    UserError if the video can't be read or the clip can't be written; no partial file is left.
    """
    write_clip(target, _drawn(source, frames), CRF, frame_rate(source))


def _drawn(source: Path, frames: Sequence[FrameScore]) -> Iterator[np.ndarray]:
    numbers = np.array([item.frame for item in frames])
    for number, image in enumerate(decode_frames(source)):
        nearest = frames[int(np.abs(numbers - number).argmin())]
        picture = annotated(image, box_at(frames, number) if nearest.box else None, nearest.probability)
        height, width = picture.shape[:2]
        yield np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), "edge")


def box_at(frames: Sequence[FrameScore], number: int) -> Box:
    """The face's box in any frame: linear between those found; before the first and after the last, equal to these."""
    boxes = np.array([item.box for item in frames if item.box])
    numbers = [item.frame for item in frames if item.box]
    x0, y0, x1, y1 = (float(np.interp(number, numbers, side)) for side in boxes.T)
    return x0, y0, x1, y1
