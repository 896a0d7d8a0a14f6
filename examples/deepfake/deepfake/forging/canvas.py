"""Renders photos onto canvases: squares around the face, resampled once from the photo.

A canvas is float32 RGB in [0, 1], (side, side, 3), with the face's box centred and half as wide as the canvas.
Transforms are 3x3 matrices on pixel coordinates (x, y, 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

CANVAS_PER_BOX = 2.0  # side of the canvas over the side of the face's box
LEAST_POINTS = 3  # fewer landmarks determine no transform and no hull


@dataclass(frozen=True)
class Still:
    """A photo, uint8 RGB (H, W, 3), with its face's box and optionally landmarks (P, 2), both in pixels."""

    image: np.ndarray
    box: tuple[float, float, float, float]
    landmarks: np.ndarray | None = None


def canvas_transform(still: Still, side: int) -> np.ndarray:
    """The transform from a photo's pixels to its canvas."""
    x0, y0, x1, y1 = still.box
    scale = side / (CANVAS_PER_BOX * max(x1 - x0, y1 - y0))
    shift = side / 2 - scale * np.array([x0 + x1, y0 + y1]) / 2
    return np.array([[scale, 0, shift[0]], [0, scale, shift[1]], [0, 0, 1]])


def render(image: np.ndarray, transform: np.ndarray, side: int, bend: np.ndarray | None = None) -> np.ndarray:
    """An image (uint8, or float32 in [0, 1]) through a transform, float32 (side, side, 3): cubic, without aliasing.

    `bend` (side, side, 2): each canvas pixel is read at its position plus this offset, in canvas pixels.
    """
    pixels = image.astype(np.float32) / 255 if image.dtype == np.uint8 else image
    smoothed = smooth_for_scale(pixels, float(np.sqrt(abs(np.linalg.det(transform[:2, :2])))))
    if bend is None:
        return np.clip(warp(smoothed, transform, side), 0, 1)
    back = np.linalg.inv(transform)
    positions = np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1) + bend
    x, y = np.moveaxis(positions @ back[:2, :2].T + back[:2, 2], -1, 0).astype(np.float32)
    return np.clip(cv2.remap(smoothed, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE), 0, 1)


def warp(image: np.ndarray, transform: np.ndarray, side: int) -> np.ndarray:
    """Cubic resampling to (side, side, 3); beyond the image's border its edge is repeated."""
    return cv2.warpAffine(image, transform[:2], (side, side), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def smooth_for_scale(image: np.ndarray, scale: float) -> np.ndarray:
    """The image, blurred so that resampling at `scale` < 1 does not alias; unchanged at 1 and above."""
    sigma = 0.5 * np.sqrt(max(0.0, 1 / scale**2 - 1))
    return cv2.GaussianBlur(image, (0, 0), sigma) if sigma > 0.05 else image


def similarity(scale: float, angle: float, shift: np.ndarray, side: int) -> np.ndarray:
    """The transform that scales and turns (radians) about a canvas's centre, then shifts (pixels)."""
    turn = scale * np.exp(1j * angle)
    linear = np.array([[turn.real, -turn.imag], [turn.imag, turn.real]])
    centre = np.array([side / 2, side / 2])
    return np.block([[linear, (centre + shift - linear @ centre)[:, None]], [np.zeros((1, 2)), np.ones((1, 1))]])


def fit_similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The least-squares similarity from points (P, 2) to points (P, 2) (Umeyama, 1991)."""
    a, b = (points @ np.array([1, 1j]) for points in (source, target))
    with np.errstate(invalid="ignore", divide="ignore"):  # equal points give NaN, which the caller checks
        turn = np.vdot(a - a.mean(), b - b.mean()) / np.vdot(a - a.mean(), a - a.mean())
    shift = b.mean() - turn * a.mean()
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag], [0, 0, 1]])


def in_box(still: Still) -> np.ndarray:
    """Which landmarks are inside the face's box: bool (P,). The others mark hair, ears and neck."""
    assert still.landmarks is not None
    box = np.asarray(still.box)
    return np.all((still.landmarks >= box[:2]) & (still.landmarks <= box[2:]), axis=1)


def face_shape(still: Still, transform: np.ndarray, side: int, shrink: float) -> np.ndarray:
    """The mask of a face on a canvas, float32 (side, side), 0 or 1: its landmarks' hull, or an ellipse in its box."""
    if still.landmarks is not None and in_box(still).sum() >= LEAST_POINTS:
        points = cv2.convexHull(still.landmarks[in_box(still)].astype(np.float32))[:, 0]
    else:
        turns = np.linspace(0, 2 * np.pi, 64, endpoint=False)
        x0, y0, x1, y1 = still.box
        points = np.stack([np.cos(turns) * 0.42 * (x1 - x0), np.sin(turns) * 0.52 * (y1 - y0)], axis=1)
        points += [(x0 + x1) / 2, (y0 + y1) / 2]
    points = points.mean(axis=0) + shrink * (points - points.mean(axis=0))
    outline = np.round(points @ transform[:2, :2].T + transform[:2, 2]).astype(np.int32)
    return cv2.fillConvexPoly(np.zeros((side, side), np.float32), outline, 1.0)
