"""One shot of a portrait: a real image and its forgery, through the same camera and the same compression."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from ..forging.camera import Camera, camera_moves, film
from ..forging.canvas import CANVAS_PER_BOX, Still, canvas_transform
from ..forging.coarse_recipes import COARSE_METHODS
from ..forging.portrait_files import Portrait
from ..forging.recipes import genuine
from ..media.faces import CROP_SCALE
from ..media.image_files import read_rgb
from .lighting import vary_light
from .people import SEED

SIZE = 64  # side of a shot in pixels: CROP_SCALE times the face's box
CANVAS = 128  # side of the canvas in pixels: 1.3 canvas pixels for each of a shot's
FRAME = round(SIZE * CANVAS_PER_BOX / CROP_SCALE)  # side of the frame that a shot is cut from
START = (FRAME - SIZE) // 2
NEAREST = 4  # a donor is one of so many people, the nearest in tone
CAMERA = Camera(light=0.15, tint=0.04, focus=0.5, noise=(0.3, 2.0))
QUALITY = (60, 98)  # of JPEG


class Shot(NamedTuple):
    """A real image, its forgery, both uint8 RGB (SIZE, SIZE, 3), and the name of the forgery's method.

    landmarks: (P, 2), x and y in pixels of both, as a forged face has the target's; None if unknown.
    """

    real: np.ndarray
    fake: np.ndarray
    method: str
    landmarks: np.ndarray | None


def shoot(target: Portrait, number: int, donors: Sequence[Portrait], varied_light: bool = False) -> Shot:
    """Shot `number` of a portrait; a swap takes its donor at random from `donors`.

    With `varied_light`, half of the shots are in other light (lighting.py). The shot depends on these arguments and
    SEED alone. UserError if a photo can't be read.
    """
    digest = hashlib.sha256(f"{target.path.name}/{number}".encode()).digest()
    rng = np.random.default_rng([SEED, 1, int.from_bytes(digest[:8], "big")])
    method = str(rng.choice(list(COARSE_METHODS)))
    donor = donors[int(rng.integers(len(donors)))]
    real, fake = canvases(target, donor, method, CANVAS, rng)
    if varied_light and rng.random() < 0.5:
        real, fake = vary_light((real, fake), rng)
    seed = int(rng.integers(2**31))  # the same camera for real and fake
    return Shot(_photograph(real, seed), _photograph(fake, seed), method, _landmarks(_still(target), seed))


def canvases(
    target: Portrait, donor: Portrait, method: str, side: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The real canvas and the forged one, float32 RGB (side, side, 3) in [0, 1]."""
    stills = _still(target), _still(donor)
    return genuine(*stills, side, rng), COARSE_METHODS[method](*stills, side, rng)


@functools.cache
def _still(photo: Portrait) -> Still:
    return Still(read_rgb(photo.path), photo.box, photo.landmarks)


def nearest_donors(target: Portrait, photos: Sequence[Portrait]) -> list[Portrait]:
    """The NEAREST photos of other people, nearest in tone first."""
    others = [photo for photo in photos if photo.person != target.person]
    distance = np.abs(np.array([other.tone for other in others]) - target.tone).sum(axis=1)
    return [others[i] for i in np.argsort(distance, kind="stable")[:NEAREST]]


def _photograph(canvas: np.ndarray, seed: int) -> np.ndarray:
    """The face crop of one frame of the camera, compressed: uint8 RGB (SIZE, SIZE, 3)."""
    motion, picture, compression = (np.random.default_rng([seed, purpose]) for purpose in range(3))
    frame = next(film(canvas, FRAME, 1, motion, picture, CAMERA))
    crop = frame[START : START + SIZE, START : START + SIZE, ::-1]
    _, code = cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, int(compression.integers(*QUALITY))])
    return np.ascontiguousarray(np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR))[..., ::-1])


def _landmarks(still: Still, seed: int) -> np.ndarray | None:
    """A photo's landmarks in the shot that `_photograph` makes of its canvas with this seed."""
    if still.landmarks is None:
        return None
    move = next(camera_moves(CANVAS, FRAME, 1, np.random.default_rng([seed, 0])))
    transform = move @ canvas_transform(still, CANVAS)
    return np.asarray(still.landmarks @ transform[:2, :2].T + transform[:2, 2] - START)
