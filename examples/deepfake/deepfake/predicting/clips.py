"""A judged video as people look at it: the curve of its frames' probabilities, and the video with box and caption."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from ..evaluating import plots
from ..evaluating.metrics import THRESHOLD
from ..media.video import decode_frames, frame_rate, write_clip
from .annotation import annotated

CRF = 18  # of the annotated clip: hardly to be told from the source
Box = tuple[float, float, float, float]


class Judged(NamedTuple):
    """What was found in one of the frames looked at; without a face there is no probability."""

    frame: int
    probability: float | None
    box: Box | None


def curve_figure(frames: Sequence[Judged], mean: float, title: str) -> Figure:
    """Fake probability over the frame's number, with the mean that is the video's; crosses: no face was found."""
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


def write_annotated(source: Path, target: Path, frames: Sequence[Judged]) -> None:
    """Every frame of a video with box and caption, as H.264 (yuv420p, no sound), at its own frame rate.

    A frame shows the probability of the nearest frame that was looked at; the box moves in a straight line between two
    of them. UserError where the video can't be read or the clip can't be written; then there is none.
    """
    write_clip(target, _drawn(source, frames), CRF, frame_rate(source))


def _drawn(source: Path, frames: Sequence[Judged]) -> Iterator[np.ndarray]:
    numbers = np.array([item.frame for item in frames])
    for number, image in enumerate(decode_frames(source)):
        nearest = frames[int(np.abs(numbers - number).argmin())]
        picture = annotated(image, box_at(frames, number) if nearest.box else None, nearest.probability)
        height, width = picture.shape[:2]
        yield np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), "edge")


def box_at(frames: Sequence[Judged], number: int) -> Box:
    """Where the face is in a frame: on a straight line from the box before to the next; at the ends the nearest."""
    boxes = np.array([item.box for item in frames if item.box])
    places = [item.frame for item in frames if item.box]
    x0, y0, x1, y1 = (float(np.interp(number, places, side)) for side in boxes.T)
    return x0, y0, x1, y1


def listed(frames: Sequence[Judged]) -> list[dict[str, Any]]:
    """The frames with a probability, ready for JSON."""
    return [
        {"frame": item.frame, "fake_probability": item.probability, "box": rounded(item.box)}
        for item in frames
        if item.probability is not None
    ]


def rounded(box: Box | None) -> list[float] | None:
    """A box to a tenth of a pixel, ready for JSON."""
    return None if box is None else [round(side, 1) for side in box]
