"""Films a still canvas: a slow camera motion, the light of the day, sensor noise; the same for real and forged ones."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .canvas import similarity, smooth_for_scale, warp
from .recipes import recolour, resharpen

OVERSAMPLING = 2  # canvas pixels a clip's pixel, so that a blend is finished well above the clip's resolution


def film(
    canvas: np.ndarray, size: int, frames: int, motion: np.random.Generator, picture: np.random.Generator
) -> Iterator[np.ndarray]:
    """Frames, uint8 RGB (size, size, 3), of a canvas (OVERSAMPLING * size, ...) in [0, 1].

    `motion` draws the camera's path (a fake's is its target's, as in FF++), `picture` light, focus and noise.
    """
    side = len(canvas)
    lit = recolour(canvas, picture, light=0.1, tint=0.03)
    sharp = smooth_for_scale(resharpen(lit, picture.uniform(-0.6, 0.6), side), size / side)
    noise = picture.uniform(0.5, 2.0) / 255
    for zoom, angle, shift in camera_path(frames, motion):
        move = np.diag([size / side, size / side, 1]) @ similarity(zoom, angle, shift * side, side)
        frame = warp(sharp, move, size)
        frame += picture.normal(0, noise, frame.shape).astype(np.float32)
        yield np.round(np.clip(frame, 0, 1) * 255).astype(np.uint8)


def camera_path(frames: int, rng: np.random.Generator) -> Iterator[tuple[float, float, np.ndarray]]:
    """Zoom, angle (radians) and shift (2,) (shares of the canvas) of each frame: a steady place plus a slow sway."""
    place, sway = rng.uniform(-1, 1, 4), rng.uniform(-0.5, 0.5, 4)
    speed, phase = rng.uniform(0.5, 1.5, 4), rng.uniform(0, 2 * np.pi, 4)
    for frame in range(frames):
        zoom, angle, *shift = place + sway * np.sin(phase + speed * 2 * np.pi * frame / 50)
        yield float(np.exp(0.06 * zoom)), float(0.06 * angle), 0.04 * np.array(shift)
