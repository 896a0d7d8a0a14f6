"""Draws the people of a forgery set: each person's split, each portrait's id, and whose face goes onto whose.

No person is in two splits, and donors come from the target's split, so that no face of the test is seen in training.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..common.cli import UserError
from ..dataset.manifest import SPLITS
from .portrait_files import Photo, Portrait

SHARE_HELD_OUT = 0.15  # of the people, for val and for test each
LEAST_PEOPLE = 2  # per split: a fake needs a target and a donor
CANDIDATES = 8  # a donor is the nearest in tone of this many
MOST_CLIPS = 1000  # real ones: ids have three digits, as in FF++


@dataclass(frozen=True)
class Clip:
    """One clip to make: the method ("real" or a forgery's name) and the ids of target and source.

    Its repr seeds the clip's random numbers, so another name of the class or of a field would change every pixel.
    """

    method: str
    target: str
    source: str

    @property
    def name(self) -> str:
        """File name: NNN.mp4 of a real, <target>_<source>.mp4 of a fake, even if its recipe uses no source."""
        return f"{self.target}.mp4" if self.method == "real" else f"{self.target}_{self.source}.mp4"

    @property
    def folder(self) -> str:
        """The folder in FF++'s layout that holds the compressions' folders."""
        return "original_sequences/youtube" if self.method == "real" else f"manipulated_sequences/{self.method}"


@dataclass(frozen=True)
class Pairing:
    """Portraits by id, ids by split, [target, source] pairs by split (each in both directions), and the clips."""

    portraits: dict[str, Portrait]
    splits: dict[str, list[str]]
    pairs: dict[str, list[tuple[str, str]]]
    clips: list[Clip]


def choose_people(photos: list[Photo], identities: int | None, seed: int, shots: int = 1) -> list[Photo]:
    """The photos of `identities` people drawn by the seed (None: all). UserError if there are too few or too many.

    `shots` is the number of real clips of each photo.
    """
    people = sorted({photo.person for photo in photos})
    if identities is not None and identities > len(people):
        raise UserError(f"--identities {identities}, but the photos show {len(people)} people (choose no more)")
    split_sizes(identities or len(people))
    chosen = set(np.random.default_rng([seed, 0]).permutation(people)[:identities].tolist())
    kept = [photo for photo in photos if photo.person in chosen]
    if len(kept) * shots > MOST_CLIPS:
        clips, fewer = (f" x {shots} shots", " or fewer --shots") if shots > 1 else ("", "")
        raise UserError(
            f"{len(kept)} photos{clips} (wanted at most {MOST_CLIPS}; choose fewer people with --identities{fewer})"
        )
    return kept


def draw_pairing(portraits: list[Portrait], methods: list[str], seed: int) -> Pairing:
    """Splits, ids, pairs and clips; the same portraits and seed give the same. UserError with too few people.

    A portrait gets an id for each time that it is listed.
    """
    rng = np.random.default_rng([seed, 1])
    people = rng.permutation(sorted({portrait.person for portrait in portraits})).tolist()
    split_of: dict[str, str] = {}
    for split, size in zip(SPLITS, split_sizes(len(people)), strict=True):
        split_of |= dict.fromkeys(people[len(split_of) : len(split_of) + size], split)
    by_id = {f"{number:03d}": portrait for number, portrait in enumerate(portraits)}
    splits = {split: [key for key, portrait in by_id.items() if split_of[portrait.person] == split] for split in SPLITS}
    pairs = {split: _pair(ids, by_id, rng) for split, ids in splits.items()}

    clips = [Clip("real", key, key) for key in by_id]
    both = sorted({ids for split in SPLITS for a, b in pairs[split] for ids in ((a, b), (b, a))})
    clips += [Clip(method, target, source) for method in methods for target, source in both]
    return Pairing(by_id, splits, pairs, clips)


def split_sizes(people: int) -> tuple[int, int, int]:
    """The numbers of people in train, val and test: 70, 15, 15 %, at least two each. UserError if there are too few."""
    val, test = (max(LEAST_PEOPLE, round(SHARE_HELD_OUT * people)) for _ in range(2))
    train = people - val - test
    if train < LEAST_PEOPLE:
        least = LEAST_PEOPLE * len(SPLITS)
        raise UserError(
            f"portraits of {people} people (wanted at least {least}: train, val and test each need {LEAST_PEOPLE}; "
            'a person is a file name up to its first "_" or "-", or the person in a row of faces.jsonl)'
        )
    return train, val, test


def _pair(ids: list[str], portraits: dict[str, Portrait], rng: np.random.Generator) -> list[tuple[str, str]]:
    """Pairs of different people that use every id; the partner is the nearest in tone of a few candidates.

    An id that is left over is paired with one that is in a pair already.
    """
    left = [str(key) for key in rng.permutation(ids)]
    pairs = []
    while left:
        first = left.pop()
        person, tone = portraits[first].person, np.array(portraits[first].tone)
        candidates = [key for key in left if portraits[key].person != person]
        candidates = candidates or [key for key in ids if portraits[key].person != person]
        second = min(candidates[:CANDIDATES], key=lambda key: float(np.abs(portraits[key].tone - tone).sum()))
        pairs.append((first, second))
        if second in left:
            left.remove(second)
    return sorted(pairs)
