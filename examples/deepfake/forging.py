"""Forges a face in a still portrait: a swap with another person's face, or a blend with an altered copy of itself.

Real and forged stills come out of the same steps, so that only the forgery tells them apart: every pixel, real or
forged, the target's or the donor's, is resampled exactly once, from its photo to a canvas of twice the clip's
resolution, by `render`. A forged canvas equals the real one outside its mask, bit for bit.

Canvases are float32 RGB in [0, 1], (side, side, 3), with the face's box centred and half as wide as the canvas.
Transforms are 3x3 matrices on pixel coordinates (x, y, 1). The ideas: face swapping as in FaceSwap (FF++, Roessler et
al., 2019) with the colour transfer of Reinhard et al. (2001), self-blending as Shiohara and Yamasaki (2022) describe.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

CANVAS_PER_BOX = 2.0  # side of the canvas over the side of the face's box
REGISTRATION_SIDE = 128  # resolution at which two faces without landmarks are registered
COMMON_POINTS = 3  # fewer landmarks than this fix no transform and no hull


@dataclass(frozen=True)
class Still:
    """A photo, uint8 RGB (H, W, 3), with the box of its face and perhaps landmarks (P, 2), in its pixels."""

    image: np.ndarray
    box: tuple[float, float, float, float]
    landmarks: np.ndarray | None = None


def genuine(target: Still, donor: Still, side: int, rng: np.random.Generator) -> np.ndarray:
    """The target's canvas as it is (`donor` and `rng` are there for the other recipes' sake)."""
    return render(target.image, canvas_transform(target, side), side)


def swap(target: Still, donor: Still, side: int, rng: np.random.Generator) -> np.ndarray:
    """The target's canvas with the donor's face: aligned, colour-matched, blended under a soft deformed mask."""
    to_canvas = canvas_transform(target, side)
    outer = render(target.image, to_canvas, side)
    from_donor = to_canvas @ align(donor, target)
    inner = render(donor.image, from_donor, side)
    shrink = rng.uniform(0.8, 0.92)
    mask = soft_mask([face_shape(target, to_canvas, side, shrink), face_shape(donor, from_donor, side, shrink)], rng)
    return blend(match_colour(inner, outer, mask), outer, mask)


def self_blend(target: Still, donor: Still, side: int, rng: np.random.Generator) -> np.ndarray:
    """The target's canvas with its own face moved, recoloured and blurred or sharpened a little (no donor is used)."""
    to_canvas = canvas_transform(target, side)
    outer = render(target.image, to_canvas, side)
    shift = rng.uniform(-0.015, 0.015, 2) * side
    move = similarity(rng.uniform(0.95, 1.05), np.radians(rng.uniform(-3, 3)), shift, side)
    inner = recolour(render(target.image, move @ to_canvas, side), rng, light=0.06, tint=0.04)
    inner = resharpen(inner, rng.uniform(-0.8, 0.8), side)
    mask = soft_mask([face_shape(target, to_canvas, side, rng.uniform(0.8, 0.92))], rng)
    return blend(inner, outer, mask * np.float32(rng.uniform(0.6, 1.0)))


METHODS: dict[str, Callable[[Still, Still, int, np.random.Generator], np.ndarray]] = {
    "Swap": swap,
    "SelfBlend": self_blend,
}


def canvas_transform(still: Still, side: int) -> np.ndarray:
    """From a photo's pixels to its canvas."""
    x0, y0, x1, y1 = still.box
    scale = side / (CANVAS_PER_BOX * max(x1 - x0, y1 - y0))
    shift = side / 2 - scale * np.array([x0 + x1, y0 + y1]) / 2
    return np.array([[scale, 0, shift[0]], [0, scale, shift[1]], [0, 0, 1]])


def render(image: np.ndarray, transform: np.ndarray, side: int) -> np.ndarray:
    """An image (uint8, or float32 in [0, 1]) through a transform: cubic, smoothed first as far as it shrinks."""
    pixels = image.astype(np.float32) / 255 if image.dtype == np.uint8 else image
    smoothed = smooth_for_scale(pixels, float(np.sqrt(abs(np.linalg.det(transform[:2, :2])))))
    canvas = cv2.warpAffine(
        smoothed, transform[:2], (side, side), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    return np.clip(canvas, 0, 1)


def warp(image: np.ndarray, transform: np.ndarray, side: int) -> np.ndarray:
    """Cubic resampling to (side, side, 3); beyond the image's border its edge is repeated."""
    return cv2.warpAffine(image, transform[:2], (side, side), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def smooth_for_scale(image: np.ndarray, scale: float) -> np.ndarray:
    """Blurred so that resampling at `scale` < 1 does not alias; unchanged at 1 and above."""
    sigma = 0.5 * np.sqrt(max(0.0, 1 / scale**2 - 1))
    return cv2.GaussianBlur(image, (0, 0), sigma) if sigma > 0.05 else image


def align(donor: Still, target: Still) -> np.ndarray:
    """The similarity that lays the donor's face on the target's, from the donor's pixels to the target's.

    By least squares on the landmarks inside both boxes, where both have the same landmarks; else the boxes are laid on
    each other and the faces registered by their grey values.
    """
    if donor.landmarks is not None and target.landmarks is not None and len(donor.landmarks) == len(target.landmarks):
        common = in_box(donor) & in_box(target)
        if common.sum() >= COMMON_POINTS:
            return fit_similarity(donor.landmarks[common], target.landmarks[common])
    from_donor, from_target = (canvas_transform(still, REGISTRATION_SIDE) for still in (donor, target))
    return np.linalg.inv(from_target) @ _register(donor, target) @ from_donor


def in_box(still: Still) -> np.ndarray:
    """Which landmarks lie in the face's box: bool (P,). The others mark hair, ears and neck."""
    assert still.landmarks is not None
    box = np.asarray(still.box)
    return np.all((still.landmarks >= box[:2]) & (still.landmarks <= box[2:]), axis=1)


def fit_similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The least-squares similarity from points (P, 2) to points (P, 2) (Umeyama, 1991; in the plane, one division)."""
    a, b = (points @ np.array([1, 1j]) for points in (source, target))
    turn = np.vdot(a - a.mean(), b - b.mean()) / np.vdot(a - a.mean(), a - a.mean())
    shift = b.mean() - turn * a.mean()
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag], [0, 0, 1]])


def similarity(scale: float, angle: float, shift: np.ndarray, side: int) -> np.ndarray:
    """Scale and turn (radians) about the centre of a (side, side) canvas, then shift (pixels)."""
    turn = scale * np.exp(1j * angle)
    linear = np.array([[turn.real, -turn.imag], [turn.imag, turn.real]])
    centre = np.array([side / 2, side / 2])
    return np.block([[linear, (centre + shift - linear @ centre)[:, None]], [np.zeros((1, 2)), np.ones((1, 1))]])


def _register(donor: Still, target: Still) -> np.ndarray:
    """From the donor's small canvas to the target's, by ECC (Evangelidis and Psarakis, 2008); identity if too far."""
    side = REGISTRATION_SIDE
    grey = [
        cv2.cvtColor(render(still.image, canvas_transform(still, side), side), cv2.COLOR_RGB2GRAY)
        for still in (target, donor)
    ]
    face = face_shape(Still(target.image, target.box), canvas_transform(target, side), side, shrink=0.9)
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 60, 1e-4)
    start = np.eye(2, 3, dtype=np.float32)
    where = (face * 255).astype(np.uint8)
    try:  # finds the map from the target's coordinates to the donor's
        _, found = cv2.findTransformECC(grey[0], grey[1], start, cv2.MOTION_AFFINE, stop, where, 7)
    except cv2.error:  # did not converge
        return np.eye(3)
    inverse = np.linalg.inv(np.vstack([found, [0, 0, 1]]))
    corners = side / 2 + side / 4 * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    fitted = fit_similarity(corners, corners @ inverse[:2, :2].T + inverse[:2, 2])
    scale, angle = np.hypot(fitted[0, 0], fitted[1, 0]), np.arctan2(fitted[1, 0], fitted[0, 0])
    moved = np.abs(fitted[:2] @ [side / 2, side / 2, 1] - side / 2).max()
    plausible = 0.85 < scale < 1.18 and abs(angle) < np.radians(12) and moved < 0.08 * side
    return fitted if plausible else np.eye(3)


def soft_mask(shapes: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Where to blend, float32 (side, side) in [0, 1]: what all the shapes share, deformed and blurred."""
    mask = np.minimum.reduce(shapes)
    side = len(mask)
    field = [cv2.resize(rng.uniform(-1, 1, (5, 5)), (side, side), interpolation=cv2.INTER_CUBIC) for _ in "xy"]
    grid = np.meshgrid(np.arange(side), np.arange(side))
    x, y = ((place + 0.02 * side * bend).astype(np.float32) for place, bend in zip(grid, field, strict=True))
    return cv2.GaussianBlur(cv2.remap(mask, x, y, cv2.INTER_LINEAR), (0, 0), side * rng.uniform(0.012, 0.03))


def face_shape(still: Still, transform: np.ndarray, side: int, shrink: float) -> np.ndarray:
    """Where a face is on a canvas, float32 (side, side), 0 or 1: its landmarks' hull, or an ellipse in its box."""
    if still.landmarks is not None and in_box(still).sum() >= COMMON_POINTS:
        points = cv2.convexHull(still.landmarks[in_box(still)].astype(np.float32))[:, 0]
    else:
        turns = np.linspace(0, 2 * np.pi, 64, endpoint=False)
        x0, y0, x1, y1 = still.box
        points = np.stack([np.cos(turns) * 0.42 * (x1 - x0), np.sin(turns) * 0.52 * (y1 - y0)], axis=1)
        points += [(x0 + x1) / 2, (y0 + y1) / 2]
    points = points.mean(axis=0) + shrink * (points - points.mean(axis=0))
    outline = np.round(points @ transform[:2, :2].T + transform[:2, 2]).astype(np.int32)
    return cv2.fillConvexPoly(np.zeros((side, side), np.float32), outline, 1.0)


def match_colour(inner: np.ndarray, outer: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """`inner` with the mean and spread of `outer` under the mask, in CIELAB."""
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
    """Another light: gamma and gain, each within `light` of 1, and a gain for each channel, within `tint` of 1."""
    gamma, gain = rng.uniform(1 - light, 1 + light, 2)
    gains = gain * rng.uniform(1 - tint, 1 + tint, 3)
    return np.clip(image ** np.float32(gamma) * gains.astype(np.float32), 0, 1)


def resharpen(image: np.ndarray, amount: float, side: int) -> np.ndarray:
    """Sharper (amount > 0) or softer (amount down to -1) by the difference from a slight blur."""
    blurred = cv2.GaussianBlur(image, (0, 0), side / 400)
    return np.clip(image + np.float32(amount) * (image - blurred), 0, 1)


def blend(inner: np.ndarray, outer: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """`inner` over `outer` by the mask; exactly `outer` where the mask is 0."""
    return np.clip(outer + mask[..., None] * (inner - outer), 0, 1)
