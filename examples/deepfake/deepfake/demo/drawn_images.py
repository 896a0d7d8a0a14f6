"""The embedded demonstration data: drawn faces, real and forged, made on the spot from one fixed seed. No result.

Every shot is a function of (seed, identity, shot) alone, so the same machine draws the same pixels in every run and
with any number of workers. Each identity belongs to one split; donors of a swap come from the same split. Each shot
gives one real image and one fake of the same face; an identity's shots are its "video".
"""

from __future__ import annotations

import functools
import hashlib
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from .demo_faces import DrawnPortrait, draw_portrait
from .demo_forgery import METHODS, film_drawing, sample_camera, sample_forgery
from .demo_people import Identity, sample_identity, sample_shot

DESCRIPTION = "demo: drawn faces, a demonstration and no result"
SEED = 2024
SIZE = 96  # side of an image; drawn at twice that
SHOTS = 2  # a person
PEOPLE = {"train": 600, "val": 75, "test": 125}
_FIRST = {"train": 0, "val": 100_000, "test": 200_000}  # identity numbers: far apart, so no split meets another


@dataclass(frozen=True)
class Drawn:
    """One split of the demo; `pixels` is uint8 (N, SIZE, SIZE, 3) RGB."""

    pixels: np.ndarray
    labels: list[int]
    videos: list[str]
    methods: list[str]
    names: list[str]


@functools.cache
def draw_split(split: str, count: int | None = None, workers: int | None = None) -> Drawn:
    """Draw a split of the demo, or the people of its first `count` images. Prints, once, what the data is."""
    _say_once()
    people = PEOPLE[split] if count is None else -(-count // (2 * SHOTS))
    shots = [(split, person, shot) for person in range(people) for shot in range(SHOTS)]
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        pairs = list(pool.map(lambda which: draw_pair(*which), shots))
    rows = [
        (method, f"{_FIRST[split] + person:06d}", shot)
        for _, person, shot in shots
        for method in ("real", method_of(person))
    ][:count]
    return Drawn(
        pixels=np.stack([pixels for pair in pairs for pixels in pair][:count]),
        labels=[int(method != "real") for method, _, _ in rows],
        videos=[f"{method}/{number}" for method, number, _ in rows],
        methods=[method for method, _, _ in rows],
        names=[f"{split}/{method}/{number}_{shot}" for method, number, shot in rows],
    )


def method_of(person: int) -> str:
    """How the fakes of a person are forged."""
    return METHODS[person % len(METHODS)]


def draw_pair(split: str, person: int, shot: int, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """One shot's real and fake image, uint8 (size, size, 3)."""
    target = _portrait(split, person, shot, size)
    rng = np.random.default_rng([SEED, 3, _FIRST[split] + person, shot])
    camera = sample_camera(rng)
    forgery = sample_forgery(rng, method_of(person))
    donor = None
    if forgery.method == "swap":
        donor = _portrait(split, _donor_of(split, person, rng), shot, size)
    return film_drawing(target, camera, size), film_drawing(target, camera, size, forgery, donor)


@functools.cache
def _identity(split: str, person: int) -> Identity:
    return sample_identity(np.random.default_rng([SEED, 1, _FIRST[split] + person]))


def _portrait(split: str, person: int, shot: int, size: int) -> DrawnPortrait:
    rng = np.random.default_rng([SEED, 2, _FIRST[split] + person, shot])
    return draw_portrait(_identity(split, person), sample_shot(rng), 2 * size)


def _donor_of(split: str, person: int, rng: np.random.Generator) -> int:
    """Of a few other people of the split, the one whose skin and glasses fit best, as a forger would choose."""
    target = _identity(split, person)

    def misfit(other: int) -> float:
        who = _identity(split, other)
        tone = sum(abs(a - b) for a, b in zip(who.skin, target.skin, strict=True))
        return tone + ((who.glasses == "none") != (target.glasses == "none"))

    others = (person + 1 + rng.integers(PEOPLE[split] - 1, size=6)) % PEOPLE[split]
    return min(others.tolist(), key=misfit)


@functools.cache
def fingerprint() -> str:
    """sha256 over the demo's parameters and the pixels of each split's first pair."""
    digest = hashlib.sha256(repr((SEED, SIZE, SHOTS, PEOPLE)).encode())
    for split in PEOPLE:
        for pixels in draw_pair(split, 0, 0):
            digest.update(pixels.tobytes())
    return digest.hexdigest()


@functools.cache
def _say_once() -> None:
    print(
        "--data demo: DRAWN faces. A demonstration that the code works, and NO result about real ones.", file=sys.stderr
    )


def save_image(path: str | Path, split: str = "test", index: int = 0, size: int = SIZE) -> Path:
    """Write image `index` of a split (even: real, odd: the fake of the same shot) as a PNG, and give its path."""
    if not 0 <= index < 2 * SHOTS * PEOPLE[split]:
        raise IndexError(f"index {index} of the demo's {split} split (wanted 0 to {2 * SHOTS * PEOPLE[split] - 1})")
    pair = draw_pair(split, index // 2 // SHOTS, index // 2 % SHOTS, size)
    Image.fromarray(pair[index % 2]).save(path, format="PNG")
    return Path(path)
