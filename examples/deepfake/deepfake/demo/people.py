"""The embedded portraits, and which of their people are in which split."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from ..common.files import replacing
from ..dataset.manifest import SPLITS
from ..forging.portrait_files import Portrait, find_face, list_photos
from .options import FOLDS

FOLDER = Path(__file__).resolve().parents[2] / "portraits"
SEED = 2024
LICENCE = "PORTRAITS-LICENCE.md"  # the name of the photos' licence beside pictures that show them
ATTRIBUTION = (
    "Photos: Face Research Lab London Set (DeBruine & Jones, 2017, doi:10.6084/m9.figshare.5047666.v5), "
    "CC BY 4.0, altered."
)


@functools.cache
def portraits() -> tuple[Portrait, ...]:
    """All photos, sorted by file name. Their boxes are stored with them, so no detector runs."""
    return tuple(portrait for photo in list_photos(FOLDER, report=False) if (portrait := find_face(photo)))


@functools.cache
def folds() -> tuple[frozenset[str], ...]:
    """FOLDS sets of people, alike in size and in the lightness of the faces; every person is in one.

    Of each seven people who are next to each other in lightness, every fold has one.
    """
    lightness = {portrait.person: person_lightness(portrait.person) for portrait in portraits()}
    people = sorted(lightness, key=lambda person: (lightness[person], person))
    rng = np.random.default_rng([SEED, 0])
    fold_of: dict[str, int] = {}
    for first in range(0, len(people), FOLDS):
        alike = people[first : first + FOLDS]
        fold_of |= zip(alike, rng.permutation(FOLDS)[: len(alike)].tolist(), strict=True)
    return tuple(frozenset(person for person in people if fold_of[person] == fold) for fold in range(FOLDS))


def photos_of(split: str, fold: int) -> list[Portrait]:
    """The photos of a split: the people of a fold in test, those of the next fold in val, all others in train."""
    held_out = {"test": folds()[fold], "val": folds()[(fold + 1) % FOLDS]}
    if split in held_out:
        return [portrait for portrait in portraits() if portrait.person in held_out[split]]
    assert split in SPLITS
    return [portrait for portrait in portraits() if portrait.person not in held_out["test"] | held_out["val"]]


def write_licence(folder: Path) -> None:
    """Write the photos' licence into a folder of pictures that show them."""
    with replacing(folder / LICENCE) as file:
        file.write((FOLDER / "LICENCE.md").read_bytes())


def person_lightness(person: str) -> float:
    """CIELAB lightness of a person's face, 0 to 100: the mean over the person's photos."""
    return float(np.mean([portrait.tone[0] for portrait in portraits() if portrait.person == person]))
