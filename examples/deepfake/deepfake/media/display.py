"""A decoded frame as a player shows it: square pixels, the display matrix applied as FFmpeg applies it, RGB."""

from __future__ import annotations

import math
from collections.abc import Collection
from contextlib import suppress
from fractions import Fraction
from typing import Any

import av
import cv2
import numpy as np

from ..common.cli import UserError
from .containers import check_size

MOST_STRETCHED = 8  # a pixel's width over its height, or the reverse; beyond it is a mistake of the header
Size = tuple[int, int]
"""Width and height in pixels."""


class ShownFrame:
    """One frame; `aspect` is the width of its pixels over their height."""

    def __init__(self, frame: av.VideoFrame, aspect: Fraction | None) -> None:
        self._frame = frame
        stretch = Fraction(aspect or 1)
        self._stretch = stretch if Fraction(1, MOST_STRETCHED) <= stretch <= MOST_STRETCHED else Fraction(1)
        self._matrix = display_matrix(frame)

    @property
    def size(self) -> Size:
        """Width and height of `rgb()`."""
        width, height = max(1, round(self._frame.width * self._stretch)), self._frame.height
        return (height, width) if _turn(self._matrix) in (90, 270) else (width, height)

    def rgb(self) -> np.ndarray:
        """The picture, uint8 (H, W, 3). UserError if its kind of pixels is not supported, or it is too large."""
        check_size(*self.size)
        image = _to_rgb(self._frame)
        if self._stretch != 1:
            width = max(1, round(image.shape[1] * self._stretch))
            image = resized(image, (width, image.shape[0]))
        return np.ascontiguousarray(turned(image, self._matrix))


def display_matrix(frame: av.VideoFrame) -> list[int]:
    """The nine numbers of the display matrix; none without a matrix."""
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    return np.frombuffer(bytes(data), np.int32).tolist() if data else []


def turned(image: np.ndarray, matrix: list[int]) -> np.ndarray:
    """The image (H, W, 3) as FFmpeg shows it: quarter turns with their mirror, or another turn inside the frame."""
    turn = _turn(matrix)
    if not matrix or turn is None or turn == 1:  # FFmpeg corrects no turn of one degree
        return image
    if turn == 90:
        return image.swapaxes(0, 1) if matrix[3] > 0 else np.rot90(image, -1)
    if turn == 270:
        return np.rot90(image.swapaxes(0, 1), 2) if matrix[3] < 0 else np.rot90(image)
    if turn % 180 == 0:
        down, across = matrix[4] < 0, turn == 180 and matrix[0] < 0
        return image[:: -1 if down else 1, :: -1 if across else 1]
    height, width = image.shape[:2]
    around = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), -turn, 1)
    return cv2.warpAffine(image, around, (width, height), flags=cv2.INTER_LINEAR)


def _turn(matrix: list[int]) -> int | None:
    """The clockwise turn of a display matrix in degrees, 0 to 359; None where it has none."""
    if not matrix:
        return 0
    across, down = math.hypot(matrix[0], matrix[3]), math.hypot(matrix[1], matrix[4])
    if not (across and down):
        return None
    return round(math.degrees(math.atan2(matrix[1] / down, matrix[0] / across))) % 360


def _to_rgb(frame: av.VideoFrame) -> np.ndarray:
    """The pixels as uint8 RGB. UserError where FFmpeg can't convert them; pixels of floats would end the process."""
    if all(part.bits <= 16 for part in frame.format.components):
        with suppress(av.FFmpegError, OSError, ValueError):
            return frame.to_ndarray(format="rgb24")
    raise UserError(f"pixels of the format {frame.format.name} are not supported")


def common_size(sizes: Collection[Size]) -> Size | None:
    """The size for all frames of a stream in which each may have another one; None if all are equal."""
    if len(sizes) < 2:
        return None
    width, height = max(size[0] for size in sizes), max(size[1] for size in sizes)
    check_size(width, height)
    return width, height


def fitted(image: np.ndarray, size: Size | None) -> np.ndarray:
    """The image as large as fits into this size, in the middle, with black beside it. None: as it is."""
    if size is None or (image.shape[1], image.shape[0]) == size:
        return image
    width, height = size
    scale = min(width / image.shape[1], height / image.shape[0])
    inner = resized(image, (min(width, round(image.shape[1] * scale)), min(height, round(image.shape[0] * scale))))
    left, top = (width - inner.shape[1]) // 2, (height - inner.shape[0]) // 2
    canvas = np.zeros((height, width, 3), np.uint8)
    canvas[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    return canvas


def resized(image: np.ndarray, size: Size) -> np.ndarray:
    """The image at this size, by area averaging where it shrinks, bicubic where it grows."""
    size = (max(1, size[0]), max(1, size[1]))
    shrinks = size[0] * size[1] < image.shape[0] * image.shape[1]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
