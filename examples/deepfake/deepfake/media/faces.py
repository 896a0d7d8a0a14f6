"""Finds the faces of an image with a pinned detector, and cuts square crops around them.

The detector is dlib's frontal HOG detector (Dalal and Triggs, 2005), which `dlib-bin` contains: nothing is downloaded.
`FaceDetector.name` holds its name, version, working size and threshold. Detectors differ by up to a third in the size
of their boxes, so crops compare only with crops made under the same name.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import cv2
import numpy as np

from ..common.cli import UserError

WORKING_SIDE = 960  # longest side the detector sees: faces of a 1080p video stay well above its 80-pixel window
FACE_THRESHOLD = 0.0  # lowest score of a face
DARK = 45.0  # a face whose mean CIELAB lightness, from 0 to 100, is lower is called dark
CROP_SCALE = 1.3  # side of a crop over the side of the box, as RECCE and FF++ crop


class Face(NamedTuple):
    """One detected face: its box (x0, y0, x1, y1) in pixels of the given image and the detector's score."""

    box: tuple[float, float, float, float]
    score: float

    @property
    def area(self) -> float:
        """Area of the box in pixels."""
        return (self.box[2] - self.box[0]) * (self.box[3] - self.box[1])


class FaceDetector:
    """dlib's frontal HOG face detector at a fixed working size, without upsampling.

    Images with a longer side than `working_side` are shrunk to it first, so that time and the smallest face found do
    not depend on the camera. Faces below 80 pixels at that size are not found.
    """

    def __init__(self, working_side: int = WORKING_SIDE) -> None:
        try:
            import dlib
        except ImportError as error:
            raise UserError(f'finding faces needs dlib: pip install -e ".[example]" ({error})', 2) from error
        self._detector: Any = dlib.get_frontal_face_detector()
        self.working_side = working_side
        self.name = f"dlib-hog-{dlib.__version__}/side{working_side}/threshold{FACE_THRESHOLD:g}"

    def detect(self, image: np.ndarray) -> list[Face]:
        """All faces of an RGB uint8 image (H, W, 3), largest first; boxes in the image's own pixels."""
        small, to_x, to_y = shrunk(image, self.working_side)
        boxes, scores, _ = self._detector.run(small, 0, FACE_THRESHOLD)
        faces = [  # dlib's right and bottom pixels belong to the box, hence + 1
            Face((b.left() * to_x, b.top() * to_y, (b.right() + 1) * to_x, (b.bottom() + 1) * to_y), float(score))
            for b, score in zip(boxes, scores, strict=True)
        ]
        return largest_first(faces)

    def largest(self, image: np.ndarray) -> Face | None:
        """The largest face of an RGB uint8 image (H, W, 3), or None without a face."""
        return next(iter(self.detect(image)), None)


def shrunk(image: np.ndarray, side: int) -> tuple[np.ndarray, float, float]:
    """The RGB uint8 image with its longer side at most `side`, and the factors of x and y back to its own pixels."""
    _check_rgb(image)
    height, width = image.shape[:2]
    shrink = min(1.0, side / max(height, width))
    if shrink < 1.0:
        size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    else:
        small = np.ascontiguousarray(image)
    return small, width / small.shape[1], height / small.shape[0]


def largest_first(faces: list[Face]) -> list[Face]:
    """The faces by area; of equal ones the leftmost first."""
    return sorted(faces, key=lambda face: (-face.area, face.box))


@functools.cache
def face_detector() -> FaceDetector:
    """This process's detector, loaded once."""
    return FaceDetector()


def box_iou(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    """Intersection over union of two boxes (x0, y0, x1, y1); 0 where they do not touch."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    common = width * height
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def square_crop(
    image: np.ndarray,
    box: tuple[float, float, float, float],
    scale: float = CROP_SCALE,
    size: int | None = None,
) -> np.ndarray:
    """The square around a box, uint8 RGB: same centre, side = scale * the box's longer side, in whole pixels.

    Beyond the image its edge pixels are repeated. With `size` the crop is resized to (size, size), by area averaging
    when it shrinks, bicubic when it grows; without, its pixels stay as they are.
    """
    _check_rgb(image)
    x0, y0, x1, y1 = box
    if not (np.all(np.isfinite(box)) and x1 > x0 and y1 > y0):
        raise ValueError(f"box must be (x0, y0, x1, y1) with x1 > x0 and y1 > y0, got {box}")
    if not scale > 0 or (size is not None and size < 1):
        raise ValueError(f"scale and size must be positive, got scale={scale}, size={size}")
    side = max(1, round(scale * max(x1 - x0, y1 - y0)))
    left, top = round((x0 + x1 - side) / 2), round((y0 + y1 - side) / 2)
    rows = np.clip(np.arange(top, top + side), 0, image.shape[0] - 1)
    columns = np.clip(np.arange(left, left + side), 0, image.shape[1] - 1)
    crop = image[rows[:, None], columns]
    if size is None or size == side:
        return crop
    return cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA if size < side else cv2.INTER_CUBIC)


def _check_rgb(image: np.ndarray) -> None:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        raise TypeError(f"image must be a uint8 array, got {getattr(image, 'dtype', type(image).__name__)}")
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"image must have shape (H, W, 3), got {image.shape}")
