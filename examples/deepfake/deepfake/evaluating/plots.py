"""The pictures of an evaluation: ROC curve, score histogram, and a grid of images like the paper's Fig. 4.

Colours are from Okabe and Ito's palette, which colour-blind readers can tell apart; nothing is told by colour alone.
"""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, roc_curve

from ..common.files import replacing
from .metrics import THRESHOLD, VideoScores, equal_error_rate

ERROR = "|difference|"  # between an image and its reconstruction, in shares of the full range
GRID_LEGEND = "GT: ground truth, Pred: prediction (fake probability); framed and bold: wrong"
HEAT_LEGEND = "over the grey image: dark is a map's lowest, yellow its highest value, both written below"
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


class Example(NamedTuple):
    """One column of the grid. Images are (S, S, 3) in [0, 1]; the attention map is (S, S) in [0, 1]."""

    image: NDArray[np.float32]
    label: int
    score: float
    reconstruction: NDArray[np.float32] | None = None
    attention: NDArray[np.float32] | None = None


class HeatRow(NamedTuple):
    """One row of a heat map figure: text beside it, images (S, S, 3) in [0, 1], and maps (S, S) by name."""

    text: str
    image: NDArray[np.float32]
    reconstruction: NDArray[np.float32] | None
    maps: Mapping[str, NDArray[np.float32]]


def roc_figure(
    labels: NDArray[np.int64],
    scores: NDArray[np.float64],
    videos: VideoScores,
    baseline_auc: float | None,
    title: str,
) -> Figure:
    """ROC curves of frames and, where they are not the same, of videos, with AUC and EER, and the trivial AUC."""
    curves: list[Any] = [("images", labels, scores, BLUE, "-")]
    if len(videos.videos) < len(labels):
        curves = [
            ("frames", labels, scores, BLUE, "-"),
            ("videos", videos.labels, videos.scores, ORANGE, (0, (5, 1.5))),
        ]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 4.9), layout="constrained")
        axes = figure.add_subplot()
        for name, y, s, colour, line in curves:
            fpr, tpr, _ = roc_curve(y, s)
            eer = equal_error_rate(y, s)
            text = f"{name}: AUC {roc_auc_score(y, s):.3f}, EER {eer:.1%}"
            axes.plot(fpr, tpr, color=colour, linestyle=line, linewidth=1.8, label=text, clip_on=False)
            axes.plot(eer, 1 - eer, "o", color=colour, markersize=5, zorder=3)
        axes.plot([], [], " ", label=_baseline_text(baseline_auc))
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":", label="chance: AUC 0.500")
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axes.set(xlabel="reals called fake", ylabel="fakes called fake", title=wrapped(title, 58))
        axes.grid(color="0.92")
        axes.set_axisbelow(True)
        axes.legend(loc="lower right", title="dots: equal error rate", alignment="left")
    return figure


def score_figure(labels: NDArray[np.int64], scores: NDArray[np.float64], title: str) -> Figure:
    """Histograms of the fake probability of reals and of fakes, each as shares of its class."""
    bins = np.linspace(0, 1, 25).tolist()
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 3.3), layout="constrained")
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


def grid_figure(examples: Sequence[Example], title: str) -> Figure:
    """Input, reconstruction, |difference| and attention map of each example; a plain classifier has the input only."""
    rows = 1 if examples[0].reconstruction is None else 4
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.25 * len(examples) + 1.3, 1.3 * rows + 1.0), layout="constrained")
        grid = figure.subplots(rows, len(examples), squeeze=False)
        for axes in grid.flat:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        for axes, example in zip(grid[0], examples, strict=True):
            _show_input(axes, example)
        if rows == 4:
            _show_reconstructions(figure, grid, examples)
        for axes, name in zip(grid[:, 0], ("input", "reconstruction", ERROR, "attention map"), strict=False):
            axes.set_ylabel(name)
        figure.suptitle(wrapped(title, 18 * len(examples)), fontsize=9, x=0.01, ha="left")
        figure.supxlabel(wrapped(GRID_LEGEND, 22 * len(examples)), fontsize=8, color=GREY)
    return figure


def _show_input(axes: Axes, example: Example) -> None:
    axes.imshow(example.image)
    predicted = int(example.score >= THRESHOLD)
    words = ("real", "fake")
    text = f"GT {words[example.label]}\nPred {words[predicted]} ({example.score:.2f})"
    if predicted == example.label:
        axes.set_title(text, fontsize=8, loc="center")
    else:
        axes.set_title(text, fontsize=8, loc="center", color=ORANGE, fontweight="bold")
        axes.spines[:].set(visible=True, color=ORANGE, linewidth=3)


def _show_reconstructions(figure: Figure, grid: NDArray[Any], examples: Sequence[Example]) -> None:
    differences = []
    for example in examples:
        assert example.reconstruction is not None
        differences.append(np.abs(example.image - example.reconstruction).mean(axis=2))
    scale = Normalize(0, max(float(np.percentile(np.stack(differences), 99.5)), 1e-3))
    for axes, example, difference in zip(grid.T, examples, differences, strict=True):
        assert example.reconstruction is not None and example.attention is not None
        axes[1].imshow(np.clip(example.reconstruction, 0, 1))
        axes[2].imshow(difference, cmap="magma", norm=scale)
        _overlay(axes[3], example.image, example.attention)
    figure.colorbar(
        ScalarMappable(scale, "magma"), ax=grid[2].tolist(), label="share of full range", aspect=8, pad=0.01
    )
    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), "viridis"), ax=grid[3].tolist(), aspect=8, pad=0.01)
    bar.set_ticks([0, 1], labels=["its lowest", "its highest"])


def heat_figure(rows: Sequence[HeatRow], title: str) -> Figure:
    """A row an image: the input, its reconstruction where there is one, then each map over the grey input.

    Under a map stands its range. The reconstruction's error is drawn alone, all rows on one scale.
    """
    names = [*(["reconstruction"] if rows[0].reconstruction is not None else []), *rows[0].maps]
    with matplotlib.rc_context(STYLE):
        columns = 1 + len(names)
        figure = Figure(figsize=(1.6 * columns + 0.4, 1.75 * len(rows) + 0.9), layout="constrained")
        grid = figure.subplots(len(rows), columns, squeeze=False)
        for axes in grid.flat:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        for axes, name in zip(grid[0], ["input", *names], strict=True):
            axes.set_title(name, fontsize=8, loc="center")
        worst = max(float(row.maps[ERROR].max()) for row in rows) if ERROR in names else 0.0
        for line, row in zip(grid, rows, strict=True):
            line[0].imshow(row.image)
            line[0].set_ylabel(row.text, fontsize=8)
            for axes, name in zip(line[1:], names, strict=True):
                if name == "reconstruction":
                    axes.imshow(np.clip(np.asarray(row.reconstruction), 0, 1))
                elif name == ERROR:
                    axes.imshow(row.maps[name], cmap="magma", vmin=0, vmax=max(worst, 1e-3))
                    axes.set_xlabel(f"up to {float(row.maps[name].max()):.2f}", fontsize=7, labelpad=2)
                else:
                    _overlay(axes, row.image, row.maps[name])
        figure.suptitle(wrapped(title, 20 * columns), fontsize=9, x=0.01, ha="left")
        figure.supxlabel(wrapped(HEAT_LEGEND, 24 * columns), fontsize=8, color=GREY)
    return figure


def _overlay(axes: Axes, image: NDArray[np.float32], values: NDArray[np.float32]) -> None:
    """A map over the grey image, coloured from its lowest to its highest value, which stand below."""
    low, high = float(values.min()), float(values.max())
    axes.imshow(image.mean(axis=2), cmap="gray", vmin=0, vmax=1)
    axes.imshow(values, cmap="viridis", alpha=0.55, vmin=low, vmax=max(high, low + 1e-6))
    axes.set_xlabel(f"{low:.2f} to {high:.2f}", fontsize=7, labelpad=2)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    with replacing(path) as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # of a file's name: its box in the title says enough
        figure.savefig(file, format="png", dpi=150)


def _baseline_text(auc: float | None) -> str:
    return "trivial cues: no training split" if auc is None else f"trivial cues alone: AUC {auc:.3f}"


def wrapped(text: str, width: int) -> str:
    """In lines, as matplotlib takes any folder's name: `$` begins no formula, and bytes that are no text become "?"."""
    text = text.encode(errors="replace").decode().replace("$", r"\$")
    return "\n".join(textwrap.wrap(text, width))
