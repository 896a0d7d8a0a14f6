"""The face detectors by the names that `--detector` takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from .faces import Face, FaceDetector
from .yunet import YuNetDetector

DEFAULT = "dlib"


class Detector(Protocol):
    """What finds faces: `name` holds its version and settings, `detect` returns the faces, largest first."""

    name: str

    def detect(self, image: np.ndarray) -> list[Face]:
        """All faces of an RGB uint8 image (H, W, 3); boxes in the image's own pixels."""


DETECTORS: dict[str, Callable[[], Detector]] = {DEFAULT: FaceDetector, "yunet": YuNetDetector}
