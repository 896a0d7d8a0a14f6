"""All shots of one split as `Images`, drawn by all cores; the same bytes in every run and with any number of cores."""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from ..common.workers import cores
from ..dataset.images import Images
from ..dataset.landmarks import in_square
from ..dataset.manifest import SPLITS
from ..dataset.resizing import square
from ..forging.portrait_files import SIDECAR, Portrait
from ..media.faces import DARK
from .people import FOLDER, SEED, folds, photos_of, portraits
from .shots import SIZE, Shot, nearest_donors, shoot

DESCRIPTION = "demo: real portraits and visible forgeries of them (Face Research Lab London Set, CC BY 4.0)"
NOTICE = """\
--data demo: REAL FACES, and forgeries made of them VISIBLE ENOUGH to be learnt in minutes. This shows that the code
works; it is NO RESULT about deepfakes. Photos: Face Research Lab London Set, CC BY 4.0 (portraits/LICENCE.md)."""
SHOTS = {"train": 16, "val": 4, "test": 8}  # of a photo, each a real image and its forgery
EXTRA = 3  # a dark face has so many times the shots in training, since few people have one


@functools.lru_cache(maxsize=len(SPLITS))
def demo_images(split: str, fold: int, image_size: int) -> Images:
    """The images of a split: real, fake, real, fake, ... A photo's shots by one method are a video."""
    _say_once()
    photos = photos_of(split, fold)
    wanted = [(photo, number) for photo in photos for number in range(_shots_of(photo.tone[0], split))]
    donors = {photo: nearest_donors(photo, photos) for photo in photos}
    side = min(SIZE, image_size)

    def draw(one: tuple[Portrait, int]) -> Shot:
        shot = _shot(split, *one, donors[one[0]])
        points = None if shot.landmarks is None else in_square(shot.landmarks, shot.real.shape, side)
        return Shot(square(shot.real, side), square(shot.fake, side), shot.method, points)

    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # the pool's threads use all cores
    try:
        with ThreadPoolExecutor(cores()) as pool:
            drawn = list(pool.map(draw, wanted))
    finally:
        cv2.setNumThreads(threads)
    methods = [method for shot in drawn for method in ("real", shot.method)]
    names = [f"{photo.path.stem}_{number}" for photo, number in wanted for _ in range(2)]
    return Images(
        labels=np.array([0, 1] * len(drawn)),
        videos=[f"{method}/{name.rpartition('_')[0]}" for method, name in zip(methods, names, strict=True)],
        methods=methods,
        names=[f"{split}/{method}/{name}" for method, name in zip(methods, names, strict=True)],
        description=DESCRIPTION,
        fingerprint=fingerprint(fold),
        image_size=image_size,
        face_in_middle=np.array(True),
        pixels=np.stack([pixels for shot in drawn for pixels in (shot.real, shot.fake)]),
        landmarks=[shot.landmarks for shot in drawn for _ in range(2)],
    )


def _shot(split: str, photo: Portrait, number: int, donors: Sequence[Portrait]) -> Shot:
    return shoot(photo, number, donors, varied_light=split == "train")


def _shots_of(lightness: float, split: str) -> int:
    return SHOTS[split] * (EXTRA if split == "train" and lightness < DARK else 1)


@functools.cache
def fingerprint(fold: int) -> str:
    """sha256 over the photos, their boxes and landmarks, the fold's people, the first photo's shots of each split."""
    settings = (SEED, SHOTS, DARK, EXTRA, sorted(folds()[fold]), [portrait.sha256 for portrait in portraits()])
    digest = hashlib.sha256(repr(settings).encode() + (FOLDER / SIDECAR).read_bytes())
    for split in SPLITS:
        photos = photos_of(split, fold)
        donors = nearest_donors(photos[0], photos)
        for number in range(SHOTS[split]):
            real, fake, *_ = _shot(split, photos[0], number, donors)
            digest.update(real.tobytes() + fake.tobytes())
    return digest.hexdigest()


@functools.cache
def _say_once() -> None:
    print(NOTICE, file=sys.stderr)
