"""What a detector sees of an input, the face in a still image or in frames of a video, and the scores of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..common.cli import UserError, to_stderr
from ..dataset.resizing import square
from ..evaluating.metrics import verdict
from ..evaluating.scoring import check_finite
from ..media.detectors import DEFAULT, DETECTORS
from ..media.faces import CROP_SCALE, Face, square_crop
from ..media.file_kinds import is_video
from ..media.image_files import read_rgb
from ..media.tracks import Box, follow
from ..media.video import sample_frames


class View(NamedTuple):
    """One frame (0 for a still image): what the network sees, uint8 (S, S, 3), the face's box, the fake probability.

    All three are None if the face is missing; `box` is None too if no face is looked for, `probability` before scoring.
    `faces` is the number of faces in the frame, other people's included; None if none is looked for.
    """

    frame: int
    pixels: np.ndarray | None
    box: Box | None
    probability: float | None = None
    faces: int | None = None


class ViewFinder:
    """Finds faces and crops them as prepare.py does; with crop="none" it takes the central square of each picture.

    Args:
        crop: "face" or "none".
        frames: how many frames of a video to look at.
        image_size: the side S of what the network sees.
        detector: what finds the faces, a key of DETECTORS. UserError if its package is missing.
    """

    def __init__(self, crop: str, frames: int, image_size: int, detector: str = DEFAULT) -> None:
        if crop == "none" and detector != DEFAULT:
            raise UserError(f"--detector {detector} finds faces, --crop none looks for none: leave one of them out", 2)
        self.detector = DETECTORS[detector]() if crop == "face" else None
        self.frames, self.image_size = frames, image_size
        self.advice = "if the pictures are face crops already, use --crop none"
        if detector == DEFAULT:
            self.advice = f"--detector yunet finds more; {self.advice}"

    def views(self, path: Path, report: Callable[[str], None] = to_stderr) -> list[View]:
        """The view of an image, or one for each chosen frame of a video. UserError if none of them shows a face.

        `report` gets a line if frames of the video are damaged or missing.
        """
        if is_video(path):
            seen = sample_frames(path, self.frames, self._crops, report)
        else:
            seen = [(0, self._crops(read_rgb(path)))]
        track = follow([[face for face in crops if face] for _, crops in seen])
        views = [
            View(frame, crops.get(face), face.box if face else None, faces=len(crops) if self.detector else None)
            for (frame, crops), face in zip(seen, track, strict=True)
        ]
        if all(view.pixels is None for view in views):
            where = f"in any of {len(views)} frames" if is_video(path) else "found"
            raise UserError(f"{path}: no face {where} ({self.advice})")
        return views

    def _crops(self, image: np.ndarray) -> dict[Face | None, np.ndarray]:
        """What the network sees of each face: all that is kept of a frame, since full frames would fill the memory.

        With crop="none" there is one entry, for no face (None).
        """
        if self.detector is None:
            return {None: square(image, self.image_size)}
        faces = self.detector.detect(image)
        return {face: square(square_crop(image, face.box, CROP_SCALE), self.image_size) for face in faces}


def to_batch(views: list[View]) -> torch.Tensor:
    """The pixels of the views that have any: uint8 (N, 3, S, S)."""
    pixels = np.stack([view.pixels for view in views if view.pixels is not None])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def scored(views: Sequence[View], scores: NDArray[np.float64]) -> list[View]:
    """The views with their probabilities; `scores` has one for each view that has pixels."""
    left = iter(scores.tolist())
    return [view if view.pixels is None else view._replace(probability=next(left)) for view in views]


def prediction(path: Path, scores: NDArray[np.float64]) -> dict[str, Any]:
    """Path, mean fake probability and prediction of an input. UserError unless all scores are finite."""
    check_finite(scores, [str(path)] * len(scores))
    probability = float(scores.mean())
    return {"path": str(path), "fake_probability": probability, "prediction": verdict(probability)}


def listed(views: Sequence[View]) -> list[dict[str, Any]]:
    """The views that have a probability, ready for JSON."""
    return [
        {
            "frame": item.frame,
            "fake_probability": item.probability,
            "box": rounded(item.box),
            "faces": item.faces,
        }
        for item in views
        if item.probability is not None
    ]


def most_faces(views: Sequence[View]) -> int | None:
    """The largest number of faces in one frame; None if none was looked for."""
    return max((view.faces for view in views if view.faces is not None), default=None)


def rounded(box: Box | None) -> list[float] | None:
    """A box to a tenth of a pixel, ready for JSON."""
    return None if box is None else [round(side, 1) for side in box]
