"""Varies the light of a shot: exposure, uneven light and highlights, the same on the real and the forged canvas.

Few people of the portraits have dark faces, whose highlights and contrasts resemble a seam. With varied light, every
face is dark in some shots and has highlights in others, so that the light of a face is no cue.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

LEVELS = (0.2, 0.65)  # mean grey level of the face after the exposure is varied
GAMMAS = (0.45, 2.5)
UNEVEN = 0.1  # standard deviation of the log gain, at the points of a grid of GRID x GRID over the canvas
GRID = 5
MOST_HIGHLIGHTS, HIGHLIGHT = 3, 0.25  # their number, and their brightness at most
SPREAD = (0.04, 0.1)  # sigma of a highlight, in canvas sides


def vary_light(canvases: Sequence[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """Canvases of one shot, float32 RGB (S, S, 3) in [0, 1], in other light; the first one's face is measured."""
    gamma = _gamma_for(canvases[0], float(np.exp(rng.uniform(*np.log(LEVELS)))))
    gain, glare = _light_field(len(canvases[0]), rng)
    return [np.clip(cv2.pow(canvas, gamma) * gain + glare, 0, 1) for canvas in canvases]


def _gamma_for(canvas: np.ndarray, level: float) -> float:
    """The gamma, within GAMMAS, that brings the face of a canvas to a mean grey level."""
    quarter = len(canvas) // 4  # the face's box is the canvas's middle
    mean = float(canvas[quarter:-quarter, quarter:-quarter].mean())
    return float(np.clip(np.log(level) / np.log(np.clip(mean, 0.02, 0.98)), *GAMMAS))


def _light_field(side: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A smooth gain and the brightness of some highlights within the face, float32 (S, S, 1)."""
    grid = rng.normal(0, UNEVEN, (GRID, GRID)).astype(np.float32)
    gain = np.exp(cv2.resize(grid, (side, side), interpolation=cv2.INTER_CUBIC))
    glare = np.zeros((side, side), np.float32)
    places = np.arange(side, dtype=np.float32)
    for _ in range(rng.integers(MOST_HIGHLIGHTS + 1)):
        sigma = rng.uniform(*SPREAD) * side
        x, y = (np.exp(-((places - middle) ** 2) / (2 * sigma**2)) for middle in rng.uniform(0.27, 0.73, 2) * side)
        glare += rng.uniform(0, HIGHLIGHT) * np.outer(y, x).astype(np.float32)
    return gain[..., None], glare[..., None]
