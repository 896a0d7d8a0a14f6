"""Reads a folder of portraits: who is in each photo, where the face is, and landmarks where a sidecar gives them.

The sidecar is an optional `faces.jsonl` in the folder, one JSON object a line: `file`, and any of `person` (who it is)
and `landmarks` (a list of [x, y] in pixels, the same points for everyone, or null).
"""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..common.cli import UserError
from ..common.workers import run_tasks
from ..dataset.manifest import IMAGE_SUFFIXES, group_of
from ..media.faces import FaceDetector, square_crop
from ..media.image_files import read_rgb

SIDECAR = "faces.jsonl"


@dataclass(frozen=True)
class Photo:
    """One photo of one person."""

    path: Path
    person: str
    landmarks: np.ndarray | None = field(hash=False, compare=False)  # (P, 2) float, pixels


@dataclass(frozen=True)
class Portrait(Photo):
    """A photo in which a face was found."""

    sha256: str
    box: tuple[float, float, float, float]  # the detector's, in pixels
    tone: tuple[float, float, float]  # mean CIELAB of the face


def list_photos(folder: Path) -> list[Photo]:
    """The photos of a folder, sorted by file name. UserError where there is none, or on a sidecar that is not one."""
    if not folder.is_dir():
        raise UserError(f"{folder}: not a folder of portraits")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.name[0] != ".")
    if not files:
        raise UserError(f"{folder}: no photos in it (wanted {', '.join(sorted(IMAGE_SUFFIXES))} files)")
    sidecar = _read_sidecar(folder / SIDECAR)
    rows = [sidecar.get(path.name, {}) for path in files]
    return [
        Photo(path, row.get("person") or group_of(path.stem), row.get("landmarks"))
        for path, row in zip(files, rows, strict=True)
    ]


def find_faces(photos: list[Photo], workers: int) -> tuple[list[Portrait], list[Photo]]:
    """The photos with a face, and those without. UserError, naming it, on a photo that cannot be read."""
    found, faceless = [], []
    located = run_tasks(_locate, [photo.path for photo in photos], workers, "finding faces")
    for photo, face in zip(photos, located, strict=True):
        if face:
            found.append(Portrait(photo.path, photo.person, photo.landmarks, *face))
        else:
            faceless.append(photo)
    return found, faceless


def _locate(path: Path) -> tuple[str, tuple[float, float, float, float], tuple[float, float, float]] | None:
    """A photo's sha256, and its face's box and tone; None without a face."""
    image = read_rgb(path)
    face = _detector().largest(image)
    if face is None:
        return None
    inside = square_crop(image, face.box, scale=0.8, size=32).astype(np.float32) / 255
    lightness, a, b = cv2.cvtColor(inside, cv2.COLOR_RGB2LAB).mean((0, 1)).tolist()
    return hashlib.sha256(path.read_bytes()).hexdigest(), face.box, (lightness, a, b)


@functools.cache
def _detector() -> FaceDetector:
    return FaceDetector()


def _read_sidecar(path: Path) -> dict[str, dict[str, Any]]:
    rows = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a readable text file ({type(error).__name__})") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            person, points = row.get("person"), row.get("landmarks")
            landmarks = None if points is None else np.asarray(points, dtype=np.float64)
            sound = isinstance(row["file"], str) and isinstance(person, str | None)
            if landmarks is not None:
                sound = sound and landmarks.ndim == 2 and landmarks.shape[1] == 2 and bool(np.isfinite(landmarks).all())
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            sound = False
        if not sound:
            raise UserError(
                f"{path}, line {number}: wanted a JSON object with file, person and landmarks [[x, y], ...]"
            )
        rows[row["file"]] = {"person": person, "landmarks": landmarks}
    return rows
