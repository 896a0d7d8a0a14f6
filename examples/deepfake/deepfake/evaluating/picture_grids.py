"""Grids of pictures: examples of answers, like the paper's Fig. 4 and 5, and the heat maps of explain.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import nn

from ..dataset.images import Images, to_unit_range
from ..dataset.manifest import CLASSES
from .heatmaps import ERROR, GUIDED, Seen, heat_maps
from .metrics import THRESHOLD, shown, verdict
from .plots import GREY, ORANGE, styled_figure, wrapped

PER_CLASS = 4  # columns of the grid for each class, up to half of them wrong answers
SEED = 0  # of the random choice
GRID_LEGEND = "GT: ground truth, Pred: prediction (fake probability); framed and bold: wrong"
HEAT_LEGEND = "over the grey image: dark is a map's lowest, yellow its highest value, both written below"


class Example(NamedTuple):
    """One column of the grid: an image with its label, its fake probability and, if it is to be shown, its method."""

    label: int
    score: float
    seen: Seen
    method: str = ""


def choose_examples(labels: NDArray[np.int64], scores: NDArray[np.float64]) -> list[int]:
    """Random images for the grid: reals, then fakes; in each class right answers, then wrong ones, up to half."""
    generator = np.random.default_rng(SEED)
    wrong = (scores >= THRESHOLD) != labels
    chosen: list[int] = []
    for label in (0, 1):
        order = generator.permutation(np.flatnonzero(labels == label))
        mistakes = order[wrong[order]]
        right = order[~wrong[order]][: max(PER_CLASS // 2, PER_CLASS - len(mistakes))]
        chosen += [int(i) for i in (*right, *mistakes[: PER_CLASS - len(right)])]
    return chosen


def grid_examples(model: nn.Module, images: Images, scores: NDArray[np.float64]) -> list[Example]:
    """The columns of the grid."""
    chosen = choose_examples(images.labels, scores)
    pixels = torch.stack([images[i][0] for i in chosen])
    seen = heat_maps(model, to_unit_range(pixels).to(next(model.parameters()).device))
    return [Example(int(images.labels[i]), float(scores[i]), item) for i, item in zip(chosen, seen, strict=True)]


def grid_figure(examples: Sequence[Example], title: str) -> Figure:
    """One column per example: input, reconstruction, its error, attention map; of a plain classifier only the input."""
    rows = 1 if examples[0].seen.reconstruction is None else 4
    with styled_figure(1.25 * len(examples) + 1.3, 1.3 * rows + 1.0) as figure:
        grid = figure.subplots(rows, len(examples), squeeze=False)
        _hide_axes(grid)
        for axes, example in zip(grid[0], examples, strict=True):
            _show_input(axes, example)
        if rows == 4:
            _show_reconstructions(figure, grid, [example.seen for example in examples])
        for axes, name in zip(grid[:, 0], ("input", "reconstruction", ERROR, "attention map"), strict=False):
            axes.set_ylabel(name)
        figure.suptitle(wrapped(title, 18 * len(examples)), fontsize=9, x=0.01, ha="left")
        figure.supxlabel(wrapped(GRID_LEGEND, 22 * len(examples)), fontsize=8, color=GREY)
    return figure


def _show_input(axes: Axes, example: Example) -> None:
    axes.imshow(example.seen.image)
    truth, predicted = CLASSES[example.label], verdict(example.score)
    text = f"GT {truth}\nPred {predicted} ({shown(example.score)})"
    if example.method not in ("", truth):
        text = f"{example.method}\n{text}"
    if predicted == truth:
        axes.set_title(text, fontsize=8, loc="center")
    else:
        axes.set_title(text, fontsize=8, loc="center", color=ORANGE, fontweight="bold")
        axes.spines[:].set(visible=True, color=ORANGE, linewidth=3)


def _show_reconstructions(figure: Figure, grid: NDArray[Any], columns: Sequence[Seen]) -> None:
    errors = np.stack([seen.maps[ERROR] for seen in columns])
    scale = Normalize(0, max(float(np.percentile(errors, 99.5)), 1e-3))
    for axes, seen in zip(grid.T, columns, strict=True):
        axes[1].imshow(np.clip(np.asarray(seen.reconstruction), 0, 1))
        axes[2].imshow(seen.maps[ERROR], cmap="magma", norm=scale)
        _overlay(axes[3], seen.image, seen.maps[GUIDED])
    figure.colorbar(
        ScalarMappable(scale, "magma"), ax=grid[2].tolist(), label="share of full range", aspect=8, pad=0.01
    )
    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), "viridis"), ax=grid[3].tolist(), aspect=8, pad=0.01)
    bar.set_ticks([0, 1], labels=["its lowest", "its highest"])


def heat_figure(rows: Sequence[tuple[str, Seen]], title: str) -> Figure:
    """One row per image, with its text: input, reconstruction if there is one, then each map over the grey input.

    The range of a map is written below it. The reconstruction's error is drawn alone, on one scale for all rows.
    """
    first = rows[0][1]
    names = [*(["reconstruction"] if first.reconstruction is not None else []), *first.maps]
    columns = 1 + len(names)
    with styled_figure(1.6 * columns + 0.4, 1.75 * len(rows) + 0.9) as figure:
        grid = figure.subplots(len(rows), columns, squeeze=False)
        _hide_axes(grid)
        for axes, name in zip(grid[0], ["input", *names], strict=True):
            axes.set_title(name, fontsize=8, loc="center")
        worst = max(float(seen.maps[ERROR].max()) for _, seen in rows) if ERROR in names else 0.0
        for line, (text, seen) in zip(grid, rows, strict=True):
            line[0].imshow(seen.image)
            line[0].set_ylabel(text, fontsize=8)
            for axes, name in zip(line[1:], names, strict=True):
                if name == "reconstruction":
                    axes.imshow(np.clip(np.asarray(seen.reconstruction), 0, 1))
                elif name == ERROR:
                    axes.imshow(seen.maps[name], cmap="magma", vmin=0, vmax=max(worst, 1e-3))
                    axes.set_xlabel(f"up to {float(seen.maps[name].max()):.2f}", fontsize=7, labelpad=2)
                else:
                    _overlay(axes, seen.image, seen.maps[name])
        figure.suptitle(wrapped(title, 20 * columns), fontsize=9, x=0.01, ha="left")
        figure.supxlabel(wrapped(HEAT_LEGEND, 24 * columns), fontsize=8, color=GREY)
    return figure


def _overlay(axes: Axes, image: NDArray[np.float32], values: NDArray[np.float32]) -> None:
    """Draw a map over the grey image, coloured from its lowest to its highest value, both written below."""
    low, high = float(values.min()), float(values.max())
    axes.imshow(image.mean(axis=2), cmap="gray", vmin=0, vmax=1)
    axes.imshow(values, cmap="viridis", alpha=0.55, vmin=low, vmax=max(high, low + 1e-6))
    axes.set_xlabel(f"{low:.2f} to {high:.2f}", fontsize=7, labelpad=2)


def _hide_axes(grid: NDArray[Any]) -> None:
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
