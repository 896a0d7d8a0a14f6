"""Forges a face in a still portrait so that the traces are coarse: visible enough to be learnt in minutes.

The steps are those of recipes.py; the seam is narrower, and the light and sharpness of the pasted face are off by more.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .canvas import Still, canvas_transform, face_shape, render, similarity
from .recipes import blend, donor_on_target, resharpen, soft_mask

SHRINK = (0.85, 1.0)
BORDER = (0.005, 0.013)  # sigma of the mask's soft border, in canvas sides
LIGHT = (0.05, 0.15)  # |log gain| between a face of middle grey level and what surrounds it
TINT = 0.02  # standard deviation of the channels' log gains
SOFTER, SHARPER = (-0.85, -0.2), (0.2, 0.7)  # log gain of fine detail
DETAIL = 1 / 200  # sigma of the blur that separates fine detail, in canvas sides
MIDDLE = 0.55  # mean level of a light face, for which LIGHT and TINT hold
MOST = 2.75  # factor of LIGHT and TINT for a dark face, whose seam would show too few grey levels


def coarse_swap(target: Still, donor: Still, side: int, rng: np.random.Generator) -> np.ndarray:
    """The target's canvas with the donor's face, aligned and colour-matched, then disturbed in light and sharpness."""
    inner, outer, mask = donor_on_target(target, donor, side, rng, SHRINK, BORDER)
    return blend(disturbed(inner, mask, side, rng), outer, mask)


def coarse_self_blend(target: Still, donor: Still, side: int, rng: np.random.Generator) -> np.ndarray:
    """The target's canvas with its own face moved, then disturbed in light and sharpness (no donor is used)."""
    to_canvas = canvas_transform(target, side)
    outer = render(target.image, to_canvas, side)
    turn, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0.004, 0.013) * side
    shift = distance * np.array([np.cos(turn), np.sin(turn)])
    move = similarity(np.exp(rng.uniform(-0.03, 0.03)), np.radians(rng.uniform(-2, 2)), shift, side)
    inner = render(target.image, move @ to_canvas, side)
    mask = soft_mask([face_shape(target, to_canvas, side, rng.uniform(*SHRINK))], rng, BORDER)
    return blend(disturbed(inner, mask, side, rng), outer, mask)


def disturbed(face: np.ndarray, mask: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """The face in another light and with more or less fine detail."""
    level = float((mask * face.mean(axis=2)).sum() / mask.sum())
    visible = MIDDLE / max(level, MIDDLE / MOST)
    gain = np.exp(visible * (_either_sign(rng, *LIGHT) + rng.normal(0, TINT, 3))).astype(np.float32)
    amount = rng.uniform(*(SOFTER if rng.random() < 0.5 else SHARPER))
    return np.clip(resharpen(face, amount, side, DETAIL) * gain, 0, 1)


def _either_sign(rng: np.random.Generator, low: float, high: float) -> float:
    return float(rng.choice([-1, 1]) * rng.uniform(low, high))


COARSE_METHODS: dict[str, Callable[[Still, Still, int, np.random.Generator], np.ndarray]] = {
    "swap": coarse_swap,
    "self-blend": coarse_self_blend,
}
VISIBLE_METHODS = {"Deepfakes": coarse_swap, "NeuralTextures": coarse_self_blend}
"""The recipe of each folder of forge.py --visible, of the same kinds as the folder's own in recipes.py."""
