"""Plots of an evaluation: the ROC curve and the score histogram; the style and helpers of every figure here.

Colours are from Okabe and Ito's palette, which colour-blind readers can tell apart; nothing is shown by colour alone.
"""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, roc_curve

from ..common.files import replacing
from .metrics import THRESHOLD, VideoScores, equal_error_rate

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "legend.edgecolor": "white",
    "legend.framealpha": 0.9,
    "figure.dpi": 150,
}


@contextmanager
def styled_figure(width: float, height: float) -> Iterator[Figure]:
    """A new figure, sizes in inches; what is drawn inside the block has STYLE."""
    with matplotlib.rc_context(STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def roc_figure(
    labels: NDArray[np.int64],
    scores: NDArray[np.float64],
    videos: VideoScores,
    baseline_auc: float | None,
    title: str,
) -> Figure:
    """ROC curves by frame and, if videos have several frames, by video; with AUC, EER and the AUC of trivial cues."""
    curves: list[Any] = [("images", labels, scores, BLUE, "-")]
    if len(videos.videos) < len(labels):
        curves = [
            ("frames", labels, scores, BLUE, "-"),
            ("videos", videos.labels, videos.scores, ORANGE, (0, (5, 1.5))),
        ]
    with styled_figure(4.6, 4.9) as figure:
        axes = figure.add_subplot()
        for name, y, s, colour, line in curves:
            fpr, tpr, _ = roc_curve(y, s)
            eer = equal_error_rate(y, s)
            text = f"{name}: AUC {roc_auc_score(y, s):.3f}, EER {eer:.1%}"
            axes.plot(fpr, tpr, color=colour, linestyle=line, linewidth=1.8, label=text, clip_on=False)
            axes.plot(eer, 1 - eer, "o", color=colour, markersize=5, zorder=3)
        trivial = ": no training split" if baseline_auc is None else f" alone: AUC {baseline_auc:.3f}"
        axes.plot([], [], " ", label=f"trivial cues{trivial}")
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":", label="chance: AUC 0.500")
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axes.set(xlabel="reals called fake", ylabel="fakes called fake", title=wrapped(title, 58))
        axes.grid(color="0.92")
        axes.set_axisbelow(True)
        axes.legend(loc="lower right", title="dots: equal error rate", alignment="left")
    return figure


def score_figure(labels: NDArray[np.int64], scores: NDArray[np.float64], title: str) -> Figure:
    """Histograms of the fake probability of reals and of fakes, in % of each class."""
    bins = np.linspace(0, 1, 25).tolist()
    with styled_figure(5.6, 3.3) as figure:
        axes = figure.add_subplot()
        for label, name, colour, hatch in ((0, "real", BLUE, ""), (1, "fake", ORANGE, "////")):
            mine = scores[labels == label]
            share = np.full(len(mine), 100 / len(mine))
            look: dict[str, Any] = {"edgecolor": colour, "hatch": hatch, "linewidth": 1.4, "histtype": "stepfilled"}
            axes.hist(mine, bins, weights=share, facecolor=(colour, 0.25), label=f"{name} ({len(mine)})", **look)
        axes.axvline(THRESHOLD, color="black", linewidth=1, linestyle="--")
        axes.text(THRESHOLD + 0.01, 0.97, "called fake →", transform=axes.get_xaxis_transform(), va="top")
        axes.text(THRESHOLD - 0.01, 0.97, "← called real", transform=axes.get_xaxis_transform(), va="top", ha="right")
        axes.set(xlim=(0, 1), xlabel="fake probability", ylabel="share of the class (%)", title=wrapped(title, 76))
        axes.margins(y=0.2)
        axes.set_yticks([tick for tick in axes.get_yticks() if tick <= 100])
        figure.legend(loc="outside lower center", ncols=2)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG; a failure leaves no partial file."""
    with replacing(path) as file:
        file.write(png(figure))


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file."""
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # in a file's name: the title then shows a box, no more
        figure.savefig(content, format="png", dpi=150)
    return content.getvalue()


def wrapped(text: str, width: int) -> str:
    """A text in lines of `width`, safe for matplotlib: "$" starts no formula, and undecodable bytes become "?"."""
    text = text.encode(errors="replace").decode().replace("$", r"\$")
    return "\n".join(textwrap.wrap(text, width))
