"""Cross-manipulation and cross-dataset tables: each run on each method of each data set, one row a run.

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
    runs, columns = _axes(found)
    cells_of = {run: [_cell(found, run, *column) for column in columns] for run in runs}
    heads = [" ".join(_escaped(part) for part in column) for column in columns]
    legend = "In %. Bold: the run was trained on it. In brackets: 95 % intervals by bootstrap over videos."
    parts = [f"# {title}", legend]
    for level in ("video", "frame"):
        for key, name in (("auc", "AUC"), ("balanced_acc", "Balanced accuracy"), ("acc", "Accuracy"), ("eer", "EER")):
            rows = [[_escaped(run), *(_text(cell, level, key) for cell in cells)] for run, cells in cells_of.items()]
            parts += [f"## {name} by {level}", table(["", *heads], rows)]
    sets = dict.fromkeys((cell["data"], cell["fingerprint"]) for cell in found)
    parts.append("\n".join(f"{_escaped(data)}: `{fingerprint}`  " for data, fingerprint in sets))
    counts = [f"{cell['video']['n_real']} + {cell['video']['n_fake']}" for cell in cells_of[runs[0]]]
    return "\n\n".join([*parts, "## Videos, real + fake", table(heads, [counts])]) + "\n"


def cross_figure(found: Sequence[dict[str, Any]], title: str) -> Figure:
    """A grid of the AUC by video, each cell coloured by its value, which is written in it."""
    runs, columns = _axes(found)
    values = np.full((len(runs), len(columns)), np.nan)
    with matplotlib.rc_context(plots.STYLE):
        figure = Figure(figsize=(2.6 + 1.0 * len(columns), 1.7 + 0.5 * len(runs)), layout="constrained")
        axes = figure.add_subplot()
        for cell in found:
            row, column = runs.index(cell["run"]), columns.index((cell["data"], cell["method"]))
            values[row, column] = auc = cell["video"]["auc"]
            ink = "white" if auc < 0.75 else "black"  # the colours go from dark to light
            weight = "bold" if cell["trained_on_it"] else "normal"
            axes.text(column, row, f"{auc:.3f}", ha="center", va="center", color=ink, weight=weight)
            if cell["trained_on_it"]:
                corner = (column - 0.47, row - 0.47)
                axes.add_patch(matplotlib.patches.Rectangle(corner, 0.94, 0.94, fill=False, linewidth=2, edgecolor=ink))
        image = axes.imshow(values, cmap="cividis", vmin=0.5, vmax=1, aspect="auto")
        axes.set_xticks(range(len(columns)), [plots.wrapped(f"{data} {method}", 14) for data, method in columns])
        axes.set_yticks(range(len(runs)), [plots.wrapped(run, 24) for run in runs])
        axes.spines[:].set_visible(False)
        axes.set_title(plots.wrapped(title, 30 + 14 * len(columns)))
        figure.colorbar(image, ax=axes, label="AUC", extend="min")
    return figure


def _axes(found: Sequence[dict[str, Any]]) -> tuple[list[str], list[tuple[str, str]]]:
    runs = list(dict.fromkeys(cell["run"] for cell in found))
    return runs, list(dict.fromkeys((cell["data"], cell["method"]) for cell in found))


def _text(cell: dict[str, Any], level: str, key: str) -> str:
    figure = f"{100 * cell[level][key]:.2f}"
    figure = f"**{figure}**" if cell["trained_on_it"] else figure
    return f"{figure} {interval(cell[level]['ci95'][key])}" if "ci95" in cell[level] else figure


def _cell(found: Sequence[dict[str, Any]], *wanted: str) -> dict[str, Any]:
    """The cell of a run, a data set and a method."""
    return next(cell for cell in found if (cell["run"], cell["data"], cell["method"]) == wanted)


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|").replace("*", r"\*").replace("_", r"\_")
