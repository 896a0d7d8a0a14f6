"""Where eyes, nose and mouth are in an image, given landmarks in one of the known orders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from ..common.cli import UserError

Parts = Mapping[str, Sequence[int]]
"""The numbers of the points of each part of a face."""

IBUG: Parts = {
    "left eye": range(36, 42),
    "right eye": range(42, 48),
    "nose": range(27, 36),
    "mouth": range(48, 68),
}
ORDERS: Mapping[int, Parts] = {
    50: {  # examples/deepfake/portraits
        "left eye": (12, 14, 15, 18, 19),
        "right eye": (13, 16, 17, 20, 21),
        "nose": range(22, 27),
        "mouth": range(27, 35),
    },
    68: IBUG,  # iBUG's (300-W), which dlib's predictor has
    81: IBUG,  # the same, with 13 points of the forehead
}
"""The parts in each known order of landmarks, by the number of points; "left" is the left in the picture."""
GROWTH = 0.2  # a part is its points' hull, grown by this share of the distance between the eyes
FACE = "face"


def regions(points: NDArray[np.float64], size: int) -> dict[str, NDArray[np.bool_]]:
    """Masks (size, size) of "left eye", "right eye", "nose", "mouth" and, of all points' hull, "face".

    Args:
        points: (P, 2), x and y in pixels of the square image. A part of a region outside the face is left out.

    Raises:
        UserError: an unknown number of points, or equal points.
    """
    if len(points) not in ORDERS:
        known = ", ".join(map(str, ORDERS))
        raise UserError(f"{len(points)} landmarks of a face (wanted one of the known orders, of {known} points)")
    parts = ORDERS[len(points)]
    left, right = (points[list(parts[eye])].mean(axis=0) for eye in ("left eye", "right eye"))
    reach = GROWTH * float(np.hypot(*(right - left)))
    face = _hull(points, size)
    found = {name: _grown(_hull(points[list(numbers)], size), reach) & face for name, numbers in parts.items()}
    if not all(mask.any() for mask in found.values()):
        raise UserError("the landmarks of a face are outside its image, or at one point")
    return found | {FACE: face}


def _hull(points: NDArray[np.float64], size: int) -> NDArray[np.bool_]:
    outline = cv2.convexHull(np.round(points).astype(np.int32))
    return cv2.fillConvexPoly(np.zeros((size, size), np.uint8), outline, 1).astype(bool)


def _grown(mask: NDArray[np.bool_], reach: float) -> NDArray[np.bool_]:
    """The mask with all pixels within `reach` of it."""
    distance = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return distance <= reach


def in_square(points: NDArray[np.float64], shape: Sequence[int], size: int) -> NDArray[np.float64]:
    """Points of an image of this shape (H, W, ...), in pixels of its central square resized to (size, size)."""
    height, width = shape[:2]
    side = min(height, width)
    return (points - [(width - side) // 2, (height - side) // 2]) * (size / side)
