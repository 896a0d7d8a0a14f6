"""Cross-manipulation and cross-dataset tables: each run on each method of each data set, one row per run.

A cell holds the metrics of one method's fakes against the data set's reals; in the column "all", of all methods. Cells
that a run was trained for (the same data, and the method among those trained on) are marked; the other cells show how
well it generalises.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from ..common.files import write_json
from ..common.markdown import table, write_markdown
from . import plots
from .summary_table import interval, name_of

ALL = "all"


def cells(run: str, metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """The cells of one evaluation, given its metrics.json: all methods together, and each alone."""
    same_data = metrics["trained_on"]["fingerprint"] == metrics["fingerprint"]
    levels = metrics["methods"]
    if len(levels) > 1:  # with one method, "all" would repeat its figures
        levels = {ALL: {name: metrics[name] for name in ("frame", "video")}, **levels}
    trained = metrics["trained_on"]["methods"]  # None: all

    def was_trained(method: str) -> bool:
        needed = set(metrics["methods"]) if method == ALL else {method}
        return same_data and (trained is None or set(trained) >= needed)

    return [
        {
            "run": run,
            "data": name_of(metrics["data"]),
            "method": method,
            "fingerprint": metrics["fingerprint"],
            "trained_on_it": was_trained(method),
            **found,
        }
        for method, found in levels.items()
    ]


def write(out: Path, found: Sequence[dict[str, Any]], split: str) -> None:
    """cross.json (all cells), cross.md (AUC and accuracy, by frame and by video) and cross.png (AUC by video)."""
    title = f"Each run on each method of each data set ({split})"
    plots.save_figure(cross_figure(found, title + ", AUC by video; framed: trained on it"), out / "cross.png")
    write_markdown(out / "cross.md", markdown(found, title))
    write_json(out / "cross.json", {"split": split, "cells": list(found)})


def markdown(found: Sequence[dict[str, Any]], title: str) -> str:
    """A table for each metric; in bold what the run was trained on, in brackets the 95 % interval."""
    by_run = _by_run(found)
    cells = next(iter(by_run.values()))
    heads = [f"{_escaped(cell['data'])} {_escaped(cell['method'])}" for cell in cells]
    legend = "In %. Bold: the run was trained on it. In brackets: 95 % intervals by bootstrap over videos."
    parts = [f"# {title}", legend]
    for level in ("video", "frame"):
        for key, name in (("auc", "AUC"), ("balanced_acc", "Balanced accuracy"), ("acc", "Accuracy"), ("eer", "EER")):
            rows = [[_escaped(run), *(_text(cell, level, key) for cell in row)] for run, row in by_run.items()]
            parts += [f"## {name} by {level}", table(["", *heads], rows)]
    sets = dict.fromkeys((cell["data"], cell["fingerprint"]) for cell in found)
    parts.append("\n".join(f"{_escaped(data)}: `{fingerprint}`  " for data, fingerprint in sets))
    counts = [f"{cell['video']['n_real']} + {cell['video']['n_fake']}" for cell in cells]
    return "\n\n".join([*parts, "## Videos, real + fake", table(heads, [counts])]) + "\n"


def cross_figure(found: Sequence[dict[str, Any]], title: str) -> Figure:
    """A grid of the AUC by video, each cell coloured by its value, which is written in it."""
    by_run = _by_run(found)
    values = np.array([[cell["video"]["auc"] for cell in row] for row in by_run.values()])
    names = [f"{cell['data']} {cell['method']}" for cell in next(iter(by_run.values()))]
    with plots.styled_figure(2.6 + 1.0 * len(names), 1.7 + 0.5 * len(by_run)) as figure:
        axes = figure.add_subplot()
        for (row, column), auc in np.ndenumerate(values):
            trained = [*by_run.values()][row][column]["trained_on_it"]
            ink = "white" if auc < 0.75 else "black"  # the colours go from dark to light
            weight = "bold" if trained else "normal"
            axes.text(column, row, f"{auc:.3f}", ha="center", va="center", color=ink, weight=weight)
            if trained:
                corner = (column - 0.47, row - 0.47)
                axes.add_patch(matplotlib.patches.Rectangle(corner, 0.94, 0.94, fill=False, linewidth=2, edgecolor=ink))
        image = axes.imshow(values, cmap="cividis", vmin=0.5, vmax=1, aspect="auto")
        axes.set_xticks(range(len(names)), [plots.wrapped(name, 14) for name in names])
        axes.set_yticks(range(len(by_run)), [plots.wrapped(run, 24) for run in by_run])
        axes.spines[:].set_visible(False)
        axes.set_title(plots.wrapped(title, 30 + 14 * len(names)))
        figure.colorbar(image, ax=axes, label="AUC", extend="min")
    return figure


def _by_run(found: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The cells of each run: a row of the table; every run has the same columns in the same order."""
    return {run: [cell for cell in found if cell["run"] == run] for run in dict.fromkeys(cell["run"] for cell in found)}


def _text(cell: dict[str, Any], level: str, key: str) -> str:
    figure = f"{100 * cell[level][key]:.2f}"
    figure = f"**{figure}**" if cell["trained_on_it"] else figure
    return f"{figure} {interval(cell[level]['ci95'][key])}" if "ci95" in cell[level] else figure


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|").replace("*", r"\*").replace("_", r"\_")
