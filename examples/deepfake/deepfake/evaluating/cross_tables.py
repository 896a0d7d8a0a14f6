"""Cross-manipulation and cross-dataset tables: each run on each method of each data set, one row a run.

A cell holds the metrics of one method's fakes against the data set's reals; the column "all" has all its methods. Cells
that a run was trained for (the same data, and the method among those trained on) are marked: what generalises is told
by the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from ..common.files import replacing, write_json
from . import plots
from .summary_table import interval

ALL = "all"


def cells(run: str, metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """One evaluation's cells, of its metrics.json: all methods together, and each against the reals."""
    data = Path(metrics["data"]).resolve().name
    same_data = metrics["trained_on"]["fingerprint"] == metrics["fingerprint"]
    levels = metrics["methods"]
    if len(levels) > 1:  # of one method, the same figures
        levels = {ALL: {name: metrics[name] for name in ("frame", "video")}, **levels}
    taken = metrics["trained_on"]["methods"]  # None: all

    def was_taken(method: str) -> bool:
        return same_data and (taken is None or set(taken) >= (set(metrics["methods"]) if method == ALL else {method}))

    return [
        {
            "run": run,
            "data": data,
            "method": method,
            "fingerprint": metrics["fingerprint"],
            "trained_on_it": was_taken(method),
            **found,
        }
        for method, found in levels.items()
    ]


def write(out: Path, found: Sequence[dict[str, Any]], split: str) -> None:
    """cross.json (all cells), cross.md (AUC and accuracy, by frame and by video) and cross.png (AUC by video)."""
    title = f"Each run on each method of each data set ({split})"
    plots.save_figure(cross_figure(found, title + ", AUC by video; framed: trained on it"), out / "cross.png")
    with replacing(out / "cross.md") as file:
        file.write(markdown(found, title).encode(errors="replace"))
    write_json(out / "cross.json", {"split": split, "cells": list(found)})


def markdown(found: Sequence[dict[str, Any]], title: str) -> str:
    """A table for each figure; in bold what the run was trained on, in brackets the 95 % interval."""
    runs, columns = _axes(found)
    by_place = {(cell["run"], cell["data"], cell["method"]): cell for cell in found}
    text = (
        f"# {title}\n\nIn %. Bold: the run was trained on it. In brackets: 95 % intervals by bootstrap over videos.\n"
    )
    for level in ("video", "frame"):
        for key, name in (("auc", "AUC"), ("balanced_acc", "Balanced accuracy"), ("acc", "Accuracy"), ("eer", "EER")):
            heads = [" ".join(_escaped(part) for part in column) for column in columns]
            text += f"\n## {name} by {level}\n\n| | {' | '.join(heads)} |\n|---|{'---|' * len(columns)}\n"
            for run in runs:
                row = [_text(by_place[(run, *column)], level, key) for column in columns]
                text += f"| {_escaped(run)} | {' | '.join(row)} |\n"
    sets = dict.fromkeys((cell["data"], cell["fingerprint"]) for cell in found)
    text += "\n" + "".join(f"{_escaped(data)}: `{fingerprint}`  \n" for data, fingerprint in sets)
    counts = [_counts(by_place[(runs[0], *column)]) for column in columns]
    heads = [" ".join(_escaped(part) for part in column) for column in columns]
    text += f"\n## Videos, real + fake\n\n| {' | '.join(heads)} |\n|{'---|' * len(columns)}\n| {' | '.join(counts)} |\n"
    return text


def cross_figure(found: Sequence[dict[str, Any]], title: str) -> Figure:
    """The AUC by video as a heat map, each cell with its number."""
    runs, columns = _axes(found)
    values = np.full((len(runs), len(columns)), np.nan)
    with matplotlib.rc_context(plots.STYLE):
        figure = Figure(figsize=(2.6 + 1.0 * len(columns), 1.7 + 0.5 * len(runs)), layout="constrained")
        axes = figure.add_subplot()
        for cell in found:
            place = runs.index(cell["run"]), columns.index((cell["data"], cell["method"]))
            values[place] = cell["video"]["auc"]
            ink = "white" if values[place] < 0.75 else "black"  # the colours go from dark to light
            weight = "bold" if cell["trained_on_it"] else "normal"
            text = f"{values[place]:.3f}"
            axes.text(*place[::-1], text, ha="center", va="center", color=ink, weight=weight)
            if cell["trained_on_it"]:
                corner = (place[1] - 0.47, place[0] - 0.47)
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


def _counts(cell: dict[str, Any]) -> str:
    return f"{cell['video']['n_real']} + {cell['video']['n_fake']}"


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|").replace("*", r"\*").replace("_", r"\_")
