"""Forges a face in a still portrait, by four recipes of three kinds: swaps, a reenactment and a self-blend.

Real and forged stills go through the same steps, so that they differ by the forgery only: every pixel of target and
donor is resampled exactly once, by `render`, from its photo to a canvas of twice the clip's resolution. A forged canvas
equals the real one outside its mask, bit for bit.

The recipes stand in for FF++'s four methods (Roessler et al., 2019) and have their names; none is the method itself.
Sources: colour transfer (Reinhard et al., 2001), multi-band blending (Burt and Adelson, 1983), self-blending (Shiohara
and Yamasaki, 2022).
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from .alignment import align
from .canvas import CANVAS_PER_BOX, Still, canvas_transform, face_shape, render, similarity

Range = tuple[float, float]
SHRINK: Range = (0.8, 0.92)  # size of a mask over that of the face's outline
BORDER: Range = (0.012, 0.03)  # sigma of a mask's soft border, in canvas sides
DETAIL = 1 / 400  # sigma of the blur that separates fine detail, in canvas sides

EXPRESSION = {  # points in the face's box that a reenactment moves, x and y from 0 to 1
    "mouth, left corner": (0.32, 0.78),
    "mouth, right corner": (0.68, 0.78),
    "lower lip": (0.5, 0.88),
    "left brow": (0.27, 0.16),
    "right brow": (0.73, 0.16),
}


def genuine(target: Still, donor: Still, side: int, rng: np.random.Generator) -> np.ndarray:
    """The target's canvas, unchanged (`donor` and `rng` are unused: all recipes have the same arguments)."""
    return render(target.image, canvas_transform(target, side), side)


def swap(target: Still, donor: Still, side: int, rng: np.random.Generator) -> np.ndarray:
    """The target's canvas with the donor's face: aligned, colour-matched, blended under a soft deformed mask."""
    return blend(*donor_on_target(target, donor, side, rng))


def swap_in_bands(target: Still, donor: Still, side: int, rng: np.random.Generator) -> np.ndarray:
    """The same with another seam: coarse detail is blended over a wide border, fine detail over a narrow one."""
    inner, outer, mask = donor_on_target(target, donor, side, rng)
    banded = blend_bands(inner, outer, mask, levels=max(1, side.bit_length() - 6))
    return blend(banded, outer, np.clip(4 * cv2.GaussianBlur(mask, (0, 0), side / 50), 0, 1))


def reenact(target: Still, donor: Still, side: int, rng: np.random.Generator) -> np.ndarray:
    """The target's own face with another expression, mouth and brows moved, as rendered anew (no donor is used)."""
    to_canvas = canvas_transform(target, side)
    outer = render(target.image, to_canvas, side)
    inner = render(target.image, to_canvas, side, expression(side, rng))
    inner = resharpen(recolour(inner, rng, light=0.05, tint=0.03), rng.uniform(-0.6, 0.6), side)
    mask = soft_mask([face_shape(target, to_canvas, side, rng.uniform(*SHRINK))], rng)
    return blend(inner, outer, mask)


def self_blend(target: Still, donor: Still, side: int, rng: np.random.Generator) -> np.ndarray:
    """The target's canvas with its own face moved, recoloured and blurred or sharpened a little (no donor is used)."""
    to_canvas = canvas_transform(target, side)
    outer = render(target.image, to_canvas, side)
    shift = rng.uniform(-0.015, 0.015, 2) * side
    move = similarity(rng.uniform(0.95, 1.05), np.radians(rng.uniform(-3, 3)), shift, side)
    inner = recolour(render(target.image, move @ to_canvas, side), rng, light=0.06, tint=0.04)
    inner = resharpen(inner, rng.uniform(-0.6, 0.6), side)
    mask = soft_mask([face_shape(target, to_canvas, side, rng.uniform(*SHRINK))], rng)
    return blend(inner, outer, mask)


METHODS: dict[str, Callable[[Still, Still, int, np.random.Generator], np.ndarray]] = {
    "Deepfakes": swap,
    "Face2Face": reenact,
    "FaceSwap": swap_in_bands,
    "NeuralTextures": self_blend,
}
"""The recipe of each folder, which is named after the method of FF++ that it stands in for.

forge.json holds the recipes' docstrings: a changed one would keep unfinished sets from being continued.
"""


def donor_on_target(
    target: Still,
    donor: Still,
    side: int,
    rng: np.random.Generator,
    shrink: Range = SHRINK,
    border: Range = BORDER,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The donor's face, aligned and colour-matched; the target's canvas; the mask to blend them.

    `shrink` is the range of the mask's size over that of the faces' hulls, `border` that of `soft_mask`.
    """
    to_canvas = canvas_transform(target, side)
    outer = render(target.image, to_canvas, side)
    from_donor = to_canvas @ align(donor, target)
    inner = render(donor.image, from_donor, side)
    factor = rng.uniform(*shrink)
    shapes = [face_shape(target, to_canvas, side, factor), face_shape(donor, from_donor, side, factor)]
    mask = soft_mask(shapes, rng, border)
    if mask.max() < 0.5:
        raise ValueError("the aligned faces do not overlap (are the landmarks those of these photos?)")
    return match_colour(inner, outer, mask), outer, mask


def expression(side: int, rng: np.random.Generator) -> np.ndarray:
    """Offsets at which canvas pixels are read, float32 (side, side, 2): smooth bumps at EXPRESSION's points."""
    box = side / CANVAS_PER_BOX
    y, x = np.mgrid[:side, :side].astype(np.float32)
    field = np.zeros((side, side, 2), np.float32)
    for point in EXPRESSION.values():
        middle = side / 2 + box * (np.array(point) - 0.5)
        reach = box * rng.uniform(0.09, 0.14)
        bump = np.exp(-((x - middle[0]) ** 2 + (y - middle[1]) ** 2) / (2 * reach**2))
        field += bump[..., None] * (box * rng.uniform(-0.05, 0.05, 2)).astype(np.float32)
    return field


def soft_mask(shapes: list[np.ndarray], rng: np.random.Generator, border: Range = BORDER) -> np.ndarray:
    """The blending mask, float32 (side, side) in [0, 1]: the shapes' intersection, deformed and blurred.

    `border` is the range of the blur's sigma, in canvas sides.
    """
    mask = np.minimum.reduce(shapes)
    side = len(mask)
    field = [cv2.resize(rng.uniform(-1, 1, (5, 5)), (side, side), interpolation=cv2.INTER_CUBIC) for _ in "xy"]
    grid = np.meshgrid(np.arange(side), np.arange(side))
    x, y = ((position + 0.02 * side * bend).astype(np.float32) for position, bend in zip(grid, field, strict=True))
    return cv2.GaussianBlur(cv2.remap(mask, x, y, cv2.INTER_LINEAR), (0, 0), side * rng.uniform(*border))


def match_colour(inner: np.ndarray, outer: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """`inner` with `outer`'s mean and standard deviation under the mask, in CIELAB."""
    lab_inner, lab_outer = (cv2.cvtColor(image, cv2.COLOR_RGB2LAB) for image in (inner, outer))
    weight = mask[..., None] / mask.sum()
    (mean_inner, spread_inner), (mean_outer, spread_outer) = (_moments(lab, weight) for lab in (lab_inner, lab_outer))
    gain = np.clip(spread_outer / np.maximum(spread_inner, 1e-3), 0.6, 1.6)
    matched = (lab_inner - mean_inner) * gain + mean_outer
    return np.clip(cv2.cvtColor(matched.astype(np.float32), cv2.COLOR_LAB2RGB), 0, 1)


def _moments(image: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean and standard deviation of each channel, (3,) each."""
    mean = (image * weight).sum((0, 1))
    return mean, np.sqrt(((image - mean) ** 2 * weight).sum((0, 1)))


def recolour(image: np.ndarray, rng: np.random.Generator, light: float, tint: float) -> np.ndarray:
    """The image in another light: gamma and gain within `light` of 1, and each channel's gain within `tint` of 1."""
    gamma, gain = rng.uniform(1 - light, 1 + light, 2)
    gains = gain * rng.uniform(1 - tint, 1 + tint, 3)
    return np.clip(image ** np.float32(gamma) * gains.astype(np.float32), 0, 1)


def resharpen(image: np.ndarray, amount: float, side: int, detail: float = DETAIL) -> np.ndarray:
    """The image with fine detail times exp(amount); detail is the difference from a slight blur."""
    blurred = cv2.GaussianBlur(image, (0, 0), side * detail)
    return np.clip(blurred + np.float32(np.exp(amount)) * (image - blurred), 0, 1)


def blend(inner: np.ndarray, outer: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """`inner` over `outer` by the mask; exactly `outer` where the mask is 0."""
    return np.clip(outer + mask[..., None] * (inner - outer), 0, 1)


def blend_bands(inner: np.ndarray, outer: np.ndarray, mask: np.ndarray, levels: int) -> np.ndarray:
    """`inner` over `outer`, each octave of detail blended by the mask at its own resolution."""
    if levels == 0:
        return outer + mask[..., None] * (inner - outer)
    height, width = mask.shape
    low_inner, low_outer = cv2.pyrDown(inner), cv2.pyrDown(outer)
    coarse = blend_bands(low_inner, low_outer, cv2.pyrDown(mask), levels - 1)
    up, up_inner, up_outer = (cv2.pyrUp(low, dstsize=(width, height)) for low in (coarse, low_inner, low_outer))
    return up + (outer - up_outer) + mask[..., None] * ((inner - up_inner) - (outer - up_outer))
