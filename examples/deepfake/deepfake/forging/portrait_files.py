"""Reads a folder of portraits: the person in each photo, the face's box, and landmarks if a sidecar has them.

The sidecar is an optional file `faces.jsonl` there, one JSON object per line: `file`, and optionally `person` (a
name), `box` ([x0, y0, x1, y1] in pixels; without it the detector finds the face) and `landmarks` (a list of [x, y] in
pixels, the same points for everyone, or null).
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..common.cli import UserError
from ..common.texts import numbered_lines, parse_json, read_text
from ..common.workers import run_tasks
from ..dataset.manifest import group_of
from ..media.faces import face_detector, square_crop
from ..media.found_files import check_readable, find_media, report_left_out
from ..media.image_files import read_rgb
from ..media.tracks import Box

SIDECAR = "faces.jsonl"


@dataclass(frozen=True)
class Photo:
    """One photo of one person."""

    path: Path
    person: str
    landmarks: np.ndarray | None = field(hash=False, compare=False)  # (P, 2) float, pixels
    box: Box | None  # from the sidecar, in pixels


@dataclass(frozen=True)
class Portrait(Photo):
    """A photo in which a face was found."""

    box: Box  # the sidecar's or the detector's, in pixels
    sha256: str
    tone: tuple[float, float, float]  # mean CIELAB of the face


def list_photos(folder: Path, report: bool = True) -> list[Photo]:
    """The photos of a folder, sorted by file name. UserError without photos, or where the sidecar is wrong.

    `report`: say on stderr what else it holds.
    """
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: not a folder of portraits")
    found = find_media(folder, ("image",), deep=False)
    check_readable(found)
    if report:
        report_left_out(folder, found)
    files = found.files
    if not files:
        raise UserError(f"{folder}: holds no photos (wanted JPEG, PNG or other image files)")
    sidecar = _read_sidecar(folder / SIDECAR)
    rows = [sidecar.get(path.name, {}) for path in files]
    return [
        Photo(path, row.get("person") or group_of(path.stem), row.get("landmarks"), row.get("box"))
        for path, row in zip(files, rows, strict=True)
    ]


def find_faces(photos: list[Photo], workers: int) -> tuple[list[Portrait], list[Photo]]:
    """The photos with a face, and those without. UserError that names a photo which cannot be read."""
    located = list(run_tasks(find_face, photos, workers, "finding faces"))
    faceless = [photo for photo, portrait in zip(photos, located, strict=True) if portrait is None]
    return [portrait for portrait in located if portrait], faceless


def find_face(photo: Photo) -> Portrait | None:
    """The photo with its face: the sidecar's box, or else the largest that the detector finds; None without a face."""
    image = read_rgb(photo.path)
    box = photo.box or _detected(image)
    if box is None:
        return None
    inside = square_crop(image, box, scale=0.8, size=32).astype(np.float32) / 255
    lightness, a, b = cv2.cvtColor(inside, cv2.COLOR_RGB2LAB).mean((0, 1)).tolist()
    sha256 = hashlib.sha256(photo.path.read_bytes()).hexdigest()
    return Portrait(photo.path, photo.person, photo.landmarks, box, sha256, (lightness, a, b))


def _detected(image: np.ndarray) -> Box | None:
    face = face_detector().largest(image)
    return None if face is None else face.box


def _read_sidecar(path: Path) -> dict[str, dict[str, Any]]:
    """The sidecar's rows by file name; none without a sidecar."""
    text = read_text(path) if path.exists() else ""
    return dict(_parse(line, f"{path}, line {number}") for number, line in numbered_lines(text))


def _parse(line: str, where: str) -> tuple[str, dict[str, Any]]:
    try:
        row = parse_json(line)
        file, person = row["file"], row.get("person")
        if isinstance(file, str) and isinstance(person, str | None):
            return file, {"person": person, "landmarks": _landmarks(row), "box": _box(row)}
    except (ValueError, TypeError, KeyError, AttributeError):
        pass
    raise UserError(
        f"{where}: wanted a JSON object with file and optionally person, box [x0, y0, x1, y1], landmarks [[x, y], ...]"
    )


def _landmarks(row: dict[str, Any]) -> np.ndarray | None:
    """The points (P, 2) of a row. ValueError or TypeError if they are wrong."""
    if row.get("landmarks") is None:
        return None
    points = np.asarray(row["landmarks"], dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise ValueError("landmarks")
    return points


def _box(row: dict[str, Any]) -> Box | None:
    """The box of a row. ValueError or TypeError if it is wrong."""
    if row.get("box") is None:
        return None
    x0, y0, x1, y1 = (float(side) for side in row["box"])
    if not (np.isfinite([x0, y0, x1, y1]).all() and x0 < x1 and y0 < y1):
        raise ValueError("box")
    return x0, y0, x1, y1
