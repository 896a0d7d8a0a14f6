"""Makes one clip: forges a still, films it with a slow camera motion, and encodes it. The same steps for reals.

The light of the day, focus and sensor noise are drawn for each clip.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..common.cli import UserError
from ..media.image_files import read_rgb
from ..media.video import write_clip
from .canvas import Still, similarity, smooth_for_scale, warp
from .coarse_recipes import VISIBLE_METHODS
from .pairing import Clip
from .portrait_files import Portrait
from .recipes import METHODS, genuine, recolour, resharpen

OVERSAMPLING = 2  # canvas pixels per clip pixel, so that blending happens well above the clip's resolution
RATE_FACTORS = {"c23": 23, "c40": 40}  # constant rate factors of H.264, as in FF++
FPS = 25


@dataclass(frozen=True)
class Camera:
    """The ranges from which light, focus and sensor noise of a shot are drawn."""

    light: float = 0.1  # gamma and gain within this of 1
    tint: float = 0.03  # each channel's gain within this of 1
    focus: float = 0.6  # fine detail times exp(-focus) to exp(focus)
    noise: tuple[float, float] = (0.5, 2.0)  # standard deviation, in levels of 255


CLIP_CAMERA = Camera()


@dataclass(frozen=True)
class ClipTask:
    """One clip to make, with all that a worker process needs."""

    clip: Clip
    target: Portrait
    donor: Portrait
    destination: Path
    size: int
    frames: int
    seed: int
    visible: bool = False

    @property
    def files(self) -> dict[str, Path]:
        """The clip's file of each compression."""
        return {name: self.destination / self.clip.folder / name / "videos" / self.clip.name for name in RATE_FACTORS}

    def random(self, purpose: str, of: Clip | str) -> np.random.Generator:
        """Random numbers from seed, purpose and clip alone, so that order and number of workers do not matter."""
        digest = hashlib.sha256(repr((purpose, of)).encode()).digest()
        return np.random.default_rng([self.seed, int.from_bytes(digest[:8], "big")])


def make_clip(task: ClipTask) -> None:
    """Write the missing files of a clip. UserError that names the photos where the recipe fails."""
    target, donor = _load_still(task.target), _load_still(task.donor)
    forge = (VISIBLE_METHODS if task.visible else METHODS).get(task.clip.method, genuine)
    try:
        canvas = forge(target, donor, OVERSAMPLING * task.size, task.random("forgery", task.clip))
    except ValueError as error:
        raise UserError(f"{task.donor.path} onto {task.target.path}: {error}") from error
    motion, picture = task.random("motion", task.clip.target), task.random("picture", task.clip)
    frames = list(film(canvas, task.size, task.frames, motion, picture))
    for compression, file in task.files.items():
        if not file.is_file():
            write_clip(file, frames, RATE_FACTORS[compression], FPS)


@functools.lru_cache(maxsize=4)
def _load_still(portrait: Portrait) -> Still:
    return Still(read_rgb(portrait.path), portrait.box, portrait.landmarks)


def film(
    canvas: np.ndarray,
    size: int,
    frames: int,
    motion: np.random.Generator,
    picture: np.random.Generator,
    camera: Camera = CLIP_CAMERA,
) -> Iterator[np.ndarray]:
    """Frames, uint8 RGB (size, size, 3), of a larger canvas in [0, 1].

    `motion` draws the camera's path (a fake has its target's, as in FF++), `picture` light, focus and noise.
    """
    side = len(canvas)
    lit = recolour(canvas, picture, camera.light, camera.tint)
    sharp = smooth_for_scale(resharpen(lit, picture.uniform(-camera.focus, camera.focus), side), size / side)
    noise = picture.uniform(*camera.noise) / 255
    for move in camera_moves(side, size, frames, motion):
        frame = warp(sharp, move, size)
        frame += picture.normal(0, noise, frame.shape).astype(np.float32)
        yield np.round(np.clip(frame, 0, 1) * 255).astype(np.uint8)


def camera_moves(side: int, size: int, frames: int, motion: np.random.Generator) -> Iterator[np.ndarray]:
    """The transform (3, 3) of each frame of a clip, from a canvas's pixels to those of the frame."""
    for zoom, angle, shift in _camera_path(frames, motion):
        yield np.diag([size / side, size / side, 1]) @ similarity(zoom, angle, shift * side, side)


def _camera_path(frames: int, rng: np.random.Generator) -> Iterator[tuple[float, float, np.ndarray]]:
    """Zoom, angle (radians) and shift (2,) (in canvas sides) of each frame: a fixed position plus a slow sway."""
    centre, sway = rng.uniform(-1, 1, 4), rng.uniform(-0.5, 0.5, 4)
    speed, phase = rng.uniform(0.5, 1.5, 4), rng.uniform(0, 2 * np.pi, 4)
    for frame in range(frames):
        zoom, angle, *shift = centre + sway * np.sin(phase + speed * 2 * np.pi * frame / 50)
        yield float(np.exp(0.06 * zoom)), float(0.06 * angle), 0.04 * np.array(shift)
