"""Robustness curves: a split scored again under each degradation at each strength.

Crops are degraded at the size in which they are stored, before they are resized for the network. For H.264, the crops
of a video, in their order, are one clip. They are farther apart in time than a camera's frames, so that the codec needs
more bits for them than for the video, or loses more quality at the same CRF.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from itertools import groupby
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..dataset.images import Images
from . import plots
from .degradations import DEGRADATIONS, degrade, h264

Levels = dict[str, dict[str, Any]]


class Degraded(Images):
    """The same images after one degradation at one strength."""

    def __init__(self, images: Images, kind: str, strength: float) -> None:
        vars(self).update(vars(images))
        self.kind, self.strength = kind, strength
        self._of_video: dict[str, list[int]] = defaultdict(list)
        for index, video in enumerate(images.videos):
            self._of_video[video].append(index)
        self._clip: tuple[str, dict[int, np.ndarray]] = ("", {})  # the last video: its frames are read one by one

    def crop(self, index: int) -> np.ndarray:
        """The degraded image, uint8 (H, W, 3), at the size in which it is stored."""
        if self.kind != "h264":
            return degrade(super().crop(index), self.kind, self.strength, self.names[index])
        video = self.videos[index]
        if self._clip[0] != video:
            self._clip = (video, self._encoded(self._of_video[video]))
        return self._clip[1][index]

    def _encoded(self, members: list[int]) -> dict[int, np.ndarray]:
        """A video's crops after H.264, by index; a change of size begins another clip."""
        crops = [(index, Images.crop(self, index)) for index in members]
        found: dict[int, np.ndarray] = {}
        for _, clip in groupby(crops, key=lambda pair: pair[1].shape):
            indices, frames = zip(*clip, strict=True)
            found |= dict(zip(indices, h264(frames, int(self.strength)), strict=True))
        return found


def curves(
    images: Images, score: Callable[[Images], NDArray[np.float64]], measure: Callable[[NDArray[np.float64]], Levels]
) -> dict[str, list[dict[str, Any]]]:
    """The metrics under each degradation: {"jpeg": [{"strength": 90, "frame": {...}, "video": {...}}, ...], ...}.

    `score` returns the scores of the degraded images, `measure` the metrics of these. Strengths go from mild up.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for kind, degradation in DEGRADATIONS.items():
        found[kind] = []
        for strength in degradation.strengths:
            levels = measure(score(Degraded(images, kind, strength)))
            found[kind].append({"strength": strength, **levels})
            print(f"{kind:<8}{strength:>6g}   AUC by frame {100 * levels['frame']['auc']:6.2f} %", flush=True)
    return found


def robustness_figure(result: dict[str, Any], title: str) -> Figure:
    """AUC by frame and by video over the strengths of each degradation, with 95 % intervals if there are any.

    `result` has the curves, and in "clean" the metrics without degradation.
    """
    looks: Any = (("frame", plots.BLUE, "-", "o"), ("video", plots.ORANGE, (0, (5, 1.5)), "s"))
    with plots.styled_figure(9.6, 5.6) as figure:
        panels = figure.subplots(2, 3, sharey=True).ravel()
        for axes, (kind, degradation) in zip(panels, DEGRADATIONS.items(), strict=False):
            for level, colour, line, marker in looks:
                points = [result["clean"][level], *(row[level] for row in result[kind])]
                values = [point["auc"] for point in points]
                axes.plot(values, color=colour, linestyle=line, marker=marker, markersize=4, label=f"by {level}")
                if "ci95" in points[0]:
                    low, high = zip(*(point["ci95"]["auc"] for point in points), strict=True)
                    axes.fill_between(range(len(points)), low, high, color=colour, alpha=0.12, linewidth=0)
            axes.axhline(0.5, color=plots.GREY, linewidth=0.8, linestyle=":", label="chance")
            ticks = ["none", *(f"{strength:g}" for strength in degradation.strengths)]
            axes.set_xticks(range(len(ticks)), ticks)
            axes.set(xlabel=degradation.axis, title=kind)
            axes.grid(color="0.92")
        for axes in panels[::3]:
            axes.set_ylabel("AUC")
        panels[-1].axis("off")
        panels[-1].legend(*panels[0].get_legend_handles_labels(), loc="center", title="bands: 95 % intervals")
        figure.suptitle(plots.wrapped(title, 120), fontsize=9, x=0.01, ha="left")
    return figure
