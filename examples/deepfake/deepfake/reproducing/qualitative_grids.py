"""The report's qualitative grids, like the paper's Fig. 4 and 5: one a compression, of test crops chosen by a rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure

from ..common.cli import UserError
from ..dataset.images import to_unit_range
from ..dataset.manifest import Record, check_links, list_images, select
from ..dataset.resizing import square
from ..evaluating.heatmaps import heat_maps
from ..evaluating.picture_grids import Example, grid_figure
from ..evaluating.scoring import to_probabilities
from ..media.image_files import read_rgb
from ..training.checkpoint import load_run
from .table_one import COMPRESSION_NAMES, MODELS, Result

VIDEOS = 2  # of the reals and of each method
RULE = "the first crop of the first two test videos, by name, of the reals and of each method"


class Grid(NamedTuple):
    """A compression's grid; without a figure, `text` says why it is missing."""

    figure: Figure | None
    text: str


def qualitative_grid(results: Sequence[Result], compression: str, folder: Path) -> Grid:
    """The grid of the first seed of PANet, or of the model that is trained in place of it, on the CPU.

    `folder` holds the compression's crops. What cannot be read leaves the grid out.
    """
    name = COMPRESSION_NAMES[compression]
    trained = {r.model: r for r in reversed(results) if r.compression == compression}
    model = next((model for model in reversed(MODELS) if model in trained), None)
    if model is None:
        return Grid(None, f"{name}: no grid of test crops, as no model is trained on it.")
    run = trained[model].run
    try:
        columns = examples(run, folder)
    except UserError as error:
        return Grid(None, f"{name}: no grid of test crops: {error}.")
    title = f"{name}, {MODELS[model]} (training {run.name})"
    return Grid(grid_figure(columns, title), f"{title}: {RULE}, whatever the answer.")


def examples(run: Path, folder: Path) -> list[Example]:
    """The grid's columns. UserError if the run or an image cannot be read."""
    model, config = load_run(run)
    chosen = choose(select(list_images(folder)[0], "test", folder))
    check_links(folder, chosen)
    crops = [square(read_rgb(folder / record.path), config["image_size"]) for record in chosen]
    pixels = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)
    seen = heat_maps(model, to_unit_range(pixels))
    scores = to_probabilities(np.array([item.logit for item in seen]))
    return [
        Example(record.label, float(score), item, record.method)
        for record, score, item in zip(chosen, scores, seen, strict=True)
    ]


def choose(records: Sequence[Record]) -> list[Record]:
    """RULE: the reals, then each method by name."""
    first_crops: dict[str, Record] = {}
    for record in sorted(records, key=lambda record: record.path):
        first_crops.setdefault(record.video, record)
    taken: Counter[str] = Counter()
    chosen = []
    for record in sorted(first_crops.values(), key=lambda record: (record.label, record.method, record.video)):
        taken[record.method] += 1
        if taken[record.method] <= VIDEOS:
            chosen.append(record)
    return chosen
