"""Prepares one source: its frames, one face followed through them, square crops, in a folder that appears complete.

The folder also holds record.json: the task, the state of the source's file, and what was found. A source counts as
prepared as long as the record, the file and all crops agree.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from ..common.cli import UserError
from ..common.texts import read_json
from ..media.faces import Face, face_detector, square_crop
from ..media.file_kinds import is_video
from ..media.found_files import check_readable, find_media
from ..media.image_files import encode_rgb, read_rgb
from ..media.tracks import boxes, follow
from ..media.video import frame_indices, frames_at, sample_frames
from ..sources.index_files import frame_number
from .tasks import Task

Frames = list[tuple[int | None, np.ndarray]]
"""Each frame's number (None: a photo) and its pixels, uint8 RGB (H, W, 3)."""
Rows = list[dict[str, Any]]
"""Lines of the manifest."""

RECORD = "record.json"


def prepare_one(task: Task) -> str | None:
    """Crop one source into a folder of its own; the reason why its file cannot be read, or None."""
    try:
        frames, reason = read_frames(task), None
    except UserError as error:
        frames, reason = [], str(error)
    try:
        write_folder(task, frames, reason)
    except OSError as error:
        raise UserError(f"cannot write {task.folder}: {error.strerror or error}") from error
    return reason


def read_frames(task: Task) -> Frames:
    """The chosen frames with their numbers; a photo is one frame without a number. UserError if unreadable."""
    source, count = task.source, task.count
    numbers = source.frames
    if numbers is not None and count is not None:
        numbers = tuple(numbers[index] for index in frame_indices(len(numbers), count))
    if source.path.is_dir():
        return _read_images(source.path, numbers or ())
    if not is_video(source.path):
        return [(None, read_rgb(source.path))]
    if numbers is not None:
        return list(frames_at(source.path, numbers))
    assert count is not None
    return list(sample_frames(source.path, count))


def _read_images(folder: Path, numbers: tuple[int, ...]) -> Frames:
    """A folder's images with these numbers at the end of their names."""
    found = find_media(folder, ("image",), deep=False)
    check_readable(found)
    file_of = {frame_number(path): path for path in found.files}
    missing = [number for number in numbers if number not in file_of]
    if missing:
        raise UserError(f"{folder}: has no image of frame {missing[0]}")
    return [(number, read_rgb(file_of[number])) for number in numbers]


def write_folder(task: Task, frames: Frames, unreadable: str | None) -> None:
    """Write crops and record beside the task's folder first, then rename it, so that it appears complete or not at all.

    Where a file cannot be written, what was written goes: on a full disk it would take the room of another source.
    """
    digest = hashlib.sha256(os.fsencode(task.folder.name)).hexdigest()
    partial = task.folder.with_name(f".{digest[:16]}.partial")  # a longer name than the folder's may be impossible
    for old in (partial, task.folder):
        shutil.rmtree(old, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        record = _write_files(task, frames, unreadable, partial)
        (partial / RECORD).write_text(json.dumps(record))
        os.replace(partial, task.folder)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _write_files(task: Task, frames: Frames, unreadable: str | None, folder: Path) -> dict[str, Any]:
    """Write the crops of a source; returns its record."""
    rows, problems = write_crops(task, frames, folder)
    if unreadable:
        file = str(task.source.path)  # left out: it differs between machines, and the manifest must not
        reason = unreadable.removeprefix(f"{file}: ").replace(f"{file}{os.sep}", "")
        problems = [task.source.row() | {"problem": reason}]
    return {
        "task": _record_of(task),
        "source": _file_state(task.source.path),
        "unreadable": bool(unreadable),
        "rows": rows,
        "bytes": [(folder / Path(row["path"]).name).stat().st_size for row in rows],
        "problems": problems,
    }


def write_crops(task: Task, frames: Frames, folder: Path) -> tuple[Rows, Rows]:
    """Write the crops; the manifest's rows of all crops, and those of frames (or a source) without a face."""
    found = [faces_in(task, number, image) for number, image in frames]
    track = follow(found)  # docs/choices.md: frames and crops
    rows: Rows = []
    problems: Rows = []
    for (number, image), faces, face, box in zip(frames, found, track, boxes(track, task.crop.missing), strict=True):
        if box is None:
            problems.append(task.source.row() | {"frame": number, "problem": "no face"})
            continue
        name = f"{number or 0:05d}.{task.crop.format}"
        scale = task.crop.scale if task.crop.crop == "face" else 1
        content = encode_rgb(square_crop(image, box, scale, task.crop.size), f".{task.crop.format}")
        (folder / name).write_bytes(content)
        rows.append(
            {"path": f"{task.source.method}/{task.folder.name}/{name}"}
            | task.source.row()
            | {"frame": number, "box": [round(edge, 2) for edge in box], "faces": len(faces)}
            | {"score": round(face.score, 4) if face else None, "detector": detector_name(task)}
            | {"sha256": hashlib.sha256(content).hexdigest()}
        )
    if frames and not rows:
        problems = [task.source.row() | {"problem": f"no face in any of {len(frames)} frames"}]
    return rows, problems


def faces_in(task: Task, number: int | None, image: np.ndarray) -> list[Face]:
    """The faces of a frame, from the detector or the boxes file; with --crop none its central square."""
    if task.crop.crop == "none":
        height, width = image.shape[:2]
        side = min(height, width)
        left, top = (width - side) // 2, (height - side) // 2
        return [Face((left, top, left + side, top + side), 1.0)]
    return face_detector().detect(image) if task.boxes is None else task.boxes.get(number, [])


def detector_name(task: Task) -> str:
    """What found the faces, as the manifest names it."""
    if task.crop.crop == "none":
        return "none"
    return face_detector().name if task.boxes is None else "boxes"


def is_done(task: Task, copied: bool = False, unreadable: bool = False) -> bool:
    """Whether the record is of this task, and file and crops are as it says.

    `copied`: the record may come from another machine, whose copy of the file has another time. `unreadable`: a file
    that could not be read counts as done; otherwise it is tried again.
    """
    try:
        record = read_json(task.folder / RECORD)
        size, time = record["source"]
        kept = record["task"] == _record_of(task) and record["bytes"] == [
            (task.folder / Path(row["path"]).name).stat().st_size for row in record["rows"]
        ]
        current = _file_state(task.source.path)
        same = size == current[0] and (copied or time == current[1])
        return bool(kept and same and (unreadable or not record["unreadable"]))
    except (UserError, OSError, KeyError, TypeError, ValueError):  # record or crops missing or damaged
        return False


def _record_of(task: Task) -> dict[str, Any]:
    """The task as its record keeps it."""
    frames = task.source.frames
    return {"settings": task.settings_digest, "count": task.count, "frames": None if frames is None else list(frames)}


def _file_state(path: Path) -> list[int]:
    """Size and time of change, of a folder those of its files: quick to compare on every run."""
    files = [entry.stat() for entry in os.scandir(path)] if path.is_dir() else [path.stat()]
    return [sum(state.st_size for state in files), max((state.st_mtime_ns for state in files), default=0)]
