"""Prepares one video: its frames, one face by track, square crops, in a folder that is there whole or not at all.

A video's folder keeps record.json: what was found, and of which file under which settings. A video counts as prepared
while its record, its file and all its crops are as that says.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..common.cli import UserError
from ..common.files import read_json
from ..dataset.manifest import IMAGE_SUFFIXES
from ..media.faces import Face, FaceDetector, square_crop
from ..media.image_files import encode_rgb, read_rgb
from ..media.tracks import boxes, follow
from ..media.video import frame_indices, frames_at, sample_frames
from ..sources.index_files import frame_number
from ..sources.source import Source
from .boxes_file import Found

Frames = list[tuple[int | None, np.ndarray]]  # index (None: a photo) and uint8 RGB
Rows = list[dict[str, Any]]

RECORD = "record.json"


@dataclass(frozen=True)
class Cut:
    """How a crop is cut out of a frame, whatever the frame."""

    crop: str  # "face", or "none": the frame's central square as it is
    size: int
    scale: float
    format: str
    missing: str


@dataclass(frozen=True)
class Task:
    """One video or photo to prepare; `settings` is a digest of all that decides its crops' bytes besides the file."""

    source: Source
    count: int | None  # frames to take by the index rule; None: all that the source lists
    folder: Path
    cut: Cut
    settings: str
    found: Found | None = None  # boxes found elsewhere, in place of the detector's


def is_done(task: Task, copied: bool = False, unreadable: bool = False) -> bool:
    """Whether the record fits the task, and file and crops are as it says.

    `copied`: the record may come from another machine, whose copy of the file has a time of its own. `unreadable`: that
    a file could not be read is a result too (without it, it is tried again).
    """
    try:
        record = read_json(task.folder / RECORD)
        size, time = record["source"]
        kept = record["task"] == describe(task) and record["bytes"] == [
            (task.folder / Path(row["path"]).name).stat().st_size for row in record["rows"]
        ]
        there = file_state(task.source.path)
        same = size == there[0] and (copied or time == there[1])
        return bool(kept and same and (unreadable or not record["unreadable"]))
    except (UserError, OSError, KeyError, TypeError, ValueError):  # no record, a damaged one, or crops are gone
        return False


def describe(task: Task) -> dict[str, Any]:
    """What was asked for, as the record keeps it."""
    frames = task.source.frames
    return {"settings": task.settings, "count": task.count, "frames": None if frames is None else list(frames)}


def file_state(path: Path) -> list[int]:
    """Size and time of change (of a folder: all its files'): cheap to compare on every run."""
    files = [entry.stat() for entry in os.scandir(path)] if path.is_dir() else [path.stat()]
    return [sum(state.st_size for state in files), max((state.st_mtime_ns for state in files), default=0)]


def prepare_one(task: Task) -> str | None:
    """Crop one video or photo into a folder of its own. None, or why its file cannot be read."""
    try:
        frames, reason = read_frames(task), None
    except UserError as error:
        frames, reason = [], str(error)
    try:
        write_crops(task, frames, reason)
    except OSError as error:
        raise UserError(f"cannot write {task.folder}: {error.strerror or error}") from error
    return reason


def write_crops(task: Task, frames: Frames, reason: str | None) -> None:
    """Crops and record, in a folder that is there whole or not at all."""
    partial = task.folder.with_name(f".{task.folder.name}.partial")
    for stale in (partial, task.folder):
        shutil.rmtree(stale, ignore_errors=True)
    partial.mkdir(parents=True)
    rows, problems = crop_frames(task, frames, partial)
    if reason:
        place = str(task.source.path)  # differs from machine to machine, the manifest must not
        problems = [task.source.row() | {"problem": reason.removeprefix(f"{place}: ").replace(f"{place}{os.sep}", "")}]
    record = {
        "task": describe(task),
        "source": file_state(task.source.path),
        "unreadable": bool(reason),
        "rows": rows,
        "bytes": [(partial / Path(row["path"]).name).stat().st_size for row in rows],
        "problems": problems,
    }
    (partial / RECORD).write_text(json.dumps(record))
    os.replace(partial, task.folder)


def read_frames(task: Task) -> Frames:
    """The chosen frames with their indices; a photo is one frame without an index. UserError if they can't be read."""
    source, count = task.source, task.count
    frames = source.frames
    if frames is not None and count is not None:
        frames = tuple(frames[place] for place in frame_indices(len(frames), count))
    if source.path.is_dir():
        return _read_images(source.path, frames or ())
    if not source.is_video:
        return [(None, read_rgb(source.path))]
    if frames is not None:
        return list(frames_at(source.path, frames))
    assert count is not None
    return list(sample_frames(source.path, count))


def _read_images(folder: Path, frames: tuple[int, ...]) -> Frames:
    """A folder's images with these numbers at the end of their names."""
    file_of = {frame_number(path): path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES}
    lacking = [number for number in frames if number not in file_of]
    if lacking:
        raise UserError(f"{folder}: has no image of frame {lacking[0]}")
    return [(number, read_rgb(file_of[number])) for number in frames]


def crop_frames(task: Task, frames: Frames, folder: Path) -> tuple[Rows, Rows]:
    """Write the crops; the manifest's rows of them, and of the frames or the video without a face."""
    found = [find_faces(task, index, image) for index, image in frames]
    track = follow(found)
    rows: Rows = []
    problems: Rows = []
    for (index, image), faces, face, box in zip(frames, found, track, boxes(track, task.cut.missing), strict=True):
        if box is None:
            problems.append(task.source.row() | {"frame": index, "problem": "no face"})
            continue
        name = f"{index or 0:05d}.{task.cut.format}"
        scale = task.cut.scale if task.cut.crop == "face" else 1
        content = encode_rgb(square_crop(image, box, scale, task.cut.size), f".{task.cut.format}")
        (folder / name).write_bytes(content)
        place = {"path": f"{task.source.method}/{task.source.video}/{name}"}
        where = {"frame": index, "box": [round(edge, 2) for edge in box], "faces": len(faces)}
        by = {"score": round(face.score, 4) if face else None, "detector": finder(task)}
        rows.append(place | task.source.row() | where | by | {"sha256": hashlib.sha256(content).hexdigest()})
    if frames and not rows:
        problems = [task.source.row() | {"problem": f"no face in any of {len(frames)} frames"}]
    return rows, problems


def find_faces(task: Task, index: int | None, image: np.ndarray) -> list[Face]:
    """The faces of a frame: the detector's, or those of the boxes file; with --crop none the central square."""
    if task.cut.crop == "none":
        height, width = image.shape[:2]
        side = min(height, width)
        left, top = (width - side) // 2, (height - side) // 2
        return [Face((left, top, left + side, top + side), 1.0)]
    return detector().detect(image) if task.found is None else task.found.get(index, [])


def finder(task: Task) -> str:
    """Who found the faces."""
    if task.cut.crop == "none":
        return "none"
    return detector().name if task.found is None else "boxes"


@functools.cache
def detector() -> FaceDetector:
    """This process's detector."""
    return FaceDetector()
