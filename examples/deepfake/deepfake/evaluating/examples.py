"""Chooses the examples of the grid and runs the detector on them: reals and fakes, right and wrong answers."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..dataset.images import Images, to_unit_range
from .heatmaps import heat_maps
from .metrics import THRESHOLD
from .picture_grids import Example

PER_CLASS = 4  # columns of the grid for each class, up to half of them wrong answers
SEED = 0  # of the random choice


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
