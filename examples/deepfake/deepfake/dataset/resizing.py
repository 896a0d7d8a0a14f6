"""How images reach a network's size: in our own way, and as the published code of other detectors does it."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from PIL import Image

Resize = Callable[[np.ndarray, int], np.ndarray]
"""uint8 pixels (H, W, 3) and a size S -> the central square as uint8 (S, S, 3)."""


def square(pixels: np.ndarray, size: int) -> np.ndarray:
    """The central square of uint8 pixels (H, W, 3), resized to (size, size, 3) with an antialiasing filter."""
    pixels = _central_square(pixels)
    if len(pixels) == size:
        return np.ascontiguousarray(pixels)
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC))


def bilinear_square(pixels: np.ndarray, size: int) -> np.ndarray:
    """As `square`, by OpenCV's INTER_LINEAR, which does not antialias: so RECCE's code reads face crops."""
    return cv2.resize(_central_square(pixels), (size, size), interpolation=cv2.INTER_LINEAR)


def bicubic_square(pixels: np.ndarray, size: int) -> np.ndarray:
    """As `square`, by OpenCV's INTER_CUBIC, which does not antialias: so DeepfakeBench's code reads face crops."""
    return cv2.resize(_central_square(pixels), (size, size), interpolation=cv2.INTER_CUBIC)


def _central_square(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return np.ascontiguousarray(pixels[top : top + side, left : left + side])
