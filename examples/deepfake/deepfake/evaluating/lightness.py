"""How light a face is: the mean CIELAB L* of the middle of its crop, which divides faces into darker and lighter ones.

The middle is mostly skin, but its lightness also depends on the light and the exposure: a group is of faces that are
darker in the picture, of skin or of light, not of people.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

DARK = 45.0
"""A face whose L* is below this is one of the darker faces, else one of the lighter faces."""
MIDDLE = 0.4
"""The side of the middle over that of the crop: about half the face's box, in prepare.py's crops of 1.3 boxes."""


def face_lightness(crop: NDArray[np.uint8]) -> float:
    """Mean L*, from 0 (black) to 100 (white), of the central square of a face crop, uint8 RGB (H, W, 3)."""
    height, width = crop.shape[:2]
    side = max(1, round(MIDDLE * min(height, width)))
    top, left = (height - side) // 2, (width - side) // 2
    middle = crop[top : top + side, left : left + side].astype(np.float32) / 255
    return float(cv2.cvtColor(middle, cv2.COLOR_RGB2LAB)[..., 0].mean(dtype=np.float64))
