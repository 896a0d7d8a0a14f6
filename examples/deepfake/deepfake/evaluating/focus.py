"""How much a detector looks at eyes, nose and mouth: the paper's abstract says that EMAM focuses on them.

A map's concentration on a region is its mean there over its mean on the whole face, that is the share of its mass over
the share of the area: 1 is chance. It is compared with that of untrained networks of the same architecture, because a
face is always in the middle, and any preference for the middle would look like one for the nose. A map is only judged
if the smallest region covers at least one of its cells, at an input of LEAST_INPUT pixels or more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import nn
from tqdm import tqdm

from ..common.cli import UserError
from ..common.markdown import table
from ..dataset.batches import stack
from ..dataset.images import Images, to_unit_range
from ..dataset.landmarks import FACE, in_square, regions
from ..dataset.manifest import group_of
from .by_person import draws, with_interval
from .heatmaps import EMAM_GATE, GRAD_CAM, heat_maps

Floats = NDArray[np.float64]
MAPS = (EMAM_GATE, GRAD_CAM)
PARTS = {"eyes": ("left eye", "right eye"), "nose": ("nose",), "mouth": ("mouth",)}
ALL = "eyes, nose and mouth"
REGIONS = (*PARTS, ALL)
LEAST_INPUT = 160  # pixels
UNTRAINED = (1, 2, 3)  # seeds


class Faces(NamedTuple):
    """Images with landmarks: which of a data set's they are, and of each the person and the points in its square.

    smallest: mean area of the smallest region, an eye, nose or mouth, in shares of the image.
    """

    indices: list[int]
    people: list[str]
    points: list[Floats]
    smallest: float


class Looks(NamedTuple):
    """What one network does on N faces: of each of its maps the concentration on REGIONS, (N, 4), NaN where the map is
    zero on the face; means on all regions and on the rest of the face, (N, 2); its size in cells. And N logits."""

    concentration: dict[str, Floats]
    means: dict[str, Floats]
    cells: dict[str, tuple[int, int]]
    logits: list[float]


def faces_of(images: Images) -> Faces:
    """The images with landmarks. UserError if no image has any, or if the landmarks of one are wrong."""
    known = {index: points for index, points in enumerate(images.landmarks) if points is not None}
    if not known:
        raise UserError(f"{images.description}: no image has landmarks, by which eyes, nose and mouth are found")
    people = [group_of(images.videos[index].partition("/")[2]) for index in known]
    squares: list[Floats] = []
    areas: dict[str, float] = defaultdict(float)
    for index, points in tqdm(known.items(), "landmarks", leave=False, disable=None, unit="image"):
        squares.append(in_square(points, images.crop(index).shape, images.image_size))
        try:
            masks = regions(squares[-1], images.image_size)
        except UserError as error:
            raise UserError(f"{images.names[index]}: {error}") from None
        for name, mask in masks.items():
            areas[name] += float(mask.mean()) / len(known)
    return Faces(list(known), people, squares, min(area for name, area in areas.items() if name != FACE))


def focus(
    model: nn.Module, untrained: Callable[[int], nn.Module], images: Images, batch_size: int, seeds: Sequence[int]
) -> dict[str, Any]:
    """What explain.py --focus reports of a detector on a split; `untrained` makes a network with random weights."""
    faces = faces_of(images)
    size = images.image_size
    cells = _looks(model, images, faces, batch_size, most=1).cells
    reasons = {name: too_coarse(cells[name], size, faces.smallest) for name in cells}
    found: dict[str, Any] = {"images": len(faces.indices), "people": len(set(faces.people)), "untrained": list(seeds)}
    maps = found["maps"] = {name: {"cells": list(cells[name]), "too_coarse": reasons[name]} for name in cells}
    if all(reasons.values()):
        return found
    trained = _looks(model, images, faces, batch_size)
    found["auc"] = _auc(images.labels[faces.indices], trained.logits)
    others = []
    for seed in seeds:
        network = with_own_statistics(untrained(seed), images, faces, batch_size)
        others.append(_looks(network, images, faces, batch_size))
    weights = draws(faces.people)
    for name, reason in reasons.items():
        if reason is None:
            own = _means(trained.concentration[name], weights)
            other = np.mean([_means(looks.concentration[name], weights) for looks in others], axis=0)
            maps[name] |= {
                "images_without_a_map": int(np.isnan(trained.concentration[name][:, 0]).sum()),
                "mean_inside_and_in_the_rest": np.nanmean(trained.means[name], axis=0).tolist(),
                "regions": {
                    region: {
                        "trained": with_interval(own[:, k]),
                        "untrained": with_interval(other[:, k]),
                        "difference": with_interval(own[:, k] - other[:, k]),
                    }
                    for k, region in enumerate(REGIONS)
                },
            }
    return found


def _auc(labels: NDArray[np.int64], logits: Sequence[float]) -> float | None:
    """AUC on these images, as a network that has learnt nothing shows nothing; None if a class is missing."""
    return float(roc_auc_score(labels, logits)) if len(set(labels.tolist())) == 2 else None


def too_coarse(cells: tuple[int, int], image_size: int, smallest: float) -> str | None:
    """Why a map of so many cells cannot tell the regions apart, or None; `smallest` is a share of the image."""
    if image_size < LEAST_INPUT:
        return f"an input of {image_size} pixels (wanted at least {LEAST_INPUT})"
    covered = smallest * cells[0] * cells[1]
    return f"the smallest region covers {covered:.2f} of its cells (wanted at least 1)" if covered < 1 else None


def _looks(model: nn.Module, images: Images, faces: Faces, batch_size: int, most: int | None = None) -> Looks:
    """The maps of a network in eval mode, of the first `most` faces or of all."""
    device = next(model.parameters()).device
    found = Looks({}, {}, {}, [])
    concentration: dict[str, list[Floats]] = {}
    means: dict[str, list[Floats]] = {}
    chosen = faces.indices[:most]
    for first in tqdm(range(0, len(chosen), batch_size), "maps", leave=False, disable=None, unit="batch"):
        pixels = stack(images, chosen[first : first + batch_size])[0]
        for seen, points in zip(heat_maps(model, to_unit_range(pixels).to(device)), faces.points[first:], strict=False):
            masks = regions(points, images.image_size)  # again each time: those of 70,000 images would fill 30 GB
            found.logits.append(seen.logit)
            for name in MAPS:
                if name in seen.maps:
                    values = on_regions(seen.maps[name], masks)
                    concentration.setdefault(name, []).append(values[0])
                    means.setdefault(name, []).append(values[1])
                    found.cells[name] = seen.cells[name]
    found.concentration.update({name: np.array(values) for name, values in concentration.items()})
    found.means.update({name: np.array(values) for name, values in means.items()})
    return found


def on_regions(values: NDArray[np.float32], masks: dict[str, NDArray[np.bool_]]) -> tuple[Floats, Floats]:
    """A map's (S, S) concentration on REGIONS, (4,), and its means on all of them and on the rest of the face, (2,)."""
    of = {name: np.logical_or.reduce([masks[part] for part in parts]) for name, parts in PARTS.items()}
    of[ALL] = np.logical_or.reduce(list(of.values()))
    face = masks[FACE]
    on_face = float(values[face].mean(dtype=np.float64))
    inside = np.array([values[of[name]].mean(dtype=np.float64) for name in REGIONS])
    rest = face & ~of[ALL]
    ends = np.array([inside[-1], values[rest].mean(dtype=np.float64) if rest.any() else np.nan])
    return (inside / on_face if on_face > 0 else np.full(len(REGIONS), np.nan)), ends


@torch.no_grad()
def with_own_statistics(model: nn.Module, images: Images, faces: Faces, batch_size: int) -> nn.Module:
    """The network in eval mode, its batch normalisations with the images' statistics: those at the start fit none."""
    norms = [module for module in model.eval().modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    device = next(model.parameters()).device
    for first in range(0, len(faces.indices), batch_size):
        model(to_unit_range(stack(images, faces.indices[first : first + batch_size])[0]).to(device))
    return model.eval()


def _means(values: Floats, weights: Floats) -> Floats:
    """Weighted means (R, K) of values (N, K), NaN left out, for weights (R, N)."""
    known = ~np.isnan(values)
    return np.asarray((weights @ np.where(known, values, 0)) / np.maximum(weights @ known, 1e-12))


def focus_table(found: dict[str, Any]) -> str:
    """The result in Markdown."""
    rows: list[list[object]] = []
    for name in MAPS:
        of = found["maps"].get(name)
        if of is None:
            rows.append([name, "this network has none", "", "", ""])
            continue
        named = f"{name}, {of['cells'][0]} x {of['cells'][1]}"
        if of["too_coarse"] is not None:
            rows.append([named, "too coarse to say: " + of["too_coarse"], "", "", ""])
            continue
        for region, figures in of["regions"].items():
            cells = [_shown(figures[key]) for key in ("trained", "untrained", "difference")]
            rows.append([named, region, *cells])
    return table(["map", "region", "concentration (chance: 1)", "of untrained networks", "difference"], rows)


def _shown(figure: Sequence[float]) -> str:
    value, low, high = figure
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"
