"""Turns videos or photos into face crops with a manifest, the same on every run: what train.py and evaluate.py read.

    python examples/deepfake/prepare.py SOURCE DEST --compression c23

SOURCE is an FF++ tree or a folder with real/ and fake/ (sources.py). Of each video, K frames at floor((i + 0.5) N / K)
of its N decoded frames; in them one face, followed by track (tracks.py); around it a square of 1.3 times its box
(faces.py). DEST gets <method>/<video>/<frame>.png, skipped.jsonl (frames and videos without a face), and, last and
whole, manifest.jsonl, whose sha256 is printed: quote it with every result. A run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from cli import Parser, UserError, in_range, path, positive_int, run
from destination import claim_destination
from faces import CROP_SCALE, FaceDetector, square_crop
from files import read_json, replacing
from images import encode_rgb, read_rgb
from manifest import MANIFEST
from sources import Source, find_sources
from tracks import POLICIES, boxes, follow
from video import sample_frames
from workers import run_tasks

Frames = list[tuple[int | None, np.ndarray]]  # index (None: a photo) and uint8 RGB
Rows = list[dict[str, Any]]

SETTINGS = "prepare.json"
RECORD = "record.json"  # in each video's folder: what was found, and the state of the file it was found in


@dataclass(frozen=True)
class Settings:
    """What decides the bytes of a crop, beside the source."""

    compression: str
    methods: list[str] | None
    frames: int
    size: int
    scale: float
    format: str
    missing: str


@dataclass(frozen=True)
class Task:
    """One video or photo to prepare."""

    source: Source
    folder: Path
    settings: Settings


def main() -> None:
    """Prepare what the command line asks for."""
    arguments = parse_arguments()
    settings = Settings(**{name: getattr(arguments, name) for name in Settings.__dataclass_fields__})
    sources = find_sources(arguments.source, settings.compression, settings.methods)
    claim_destination(arguments.destination, SETTINGS, describe(settings))
    tasks = [Task(source, arguments.destination / source.method / source.video, settings) for source in sources]
    prepare_all(tasks, arguments.destination, arguments.workers)
    write_manifest(tasks, arguments.destination)


_scale = in_range(float, 0.1, 10)
_crop_size = in_range(int, 16, 4096)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(description="Turn videos or photos into face crops and a manifest.")
    parser.add_argument("source", type=path, metavar="SOURCE", help="FF++ tree, or folder with real/ and fake/")
    parser.add_argument("destination", type=path, metavar="DEST", help="folder to make, or to go on with")
    parser.add_argument("--compression", choices=["raw", "c23", "c40"], default="c23", help="default: %(default)s")
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help="forgeries to take (default: all)")
    parser.add_argument("--frames", type=positive_int, default=32, help="frames a video (default: %(default)s)")
    parser.add_argument("--size", type=_crop_size, default=320, help="side of a crop (default: %(default)s pixels)")
    parser.add_argument(
        "--scale",
        type=_scale,
        default=CROP_SCALE,
        help="side of the square over the box's (default: %(default)s)",
    )
    parser.add_argument(
        "--format", choices=["png", "jpg"], default="png", help="jpg: quality 95 (default: %(default)s)"
    )
    parser.add_argument(
        "--missing",
        choices=POLICIES,
        default="hold",
        help="a frame without a face: hold the track's last box, or drop the frame (default: %(default)s)",
    )
    parser.add_argument("--workers", type=positive_int, default=2, help="processes (default: %(default)s)")
    return parser.parse_args()


def describe(settings: Settings) -> dict[str, Any]:
    """The settings with the detector and versions that go with them."""
    versions = {"av": av.__version__, "opencv": cv2.__version__, "numpy": np.__version__}
    return vars(settings) | {"detector": FaceDetector().name, "versions": versions}


def prepare_all(tasks: list[Task], destination: Path, workers: int) -> None:
    """Prepare each video that is not there yet. Files that can't be read are all named before the run fails."""
    left = [task for task in tasks if not is_done(task)]
    if len(left) < len(tasks):
        print(f"{len(tasks) - len(left)} of {len(tasks)} sources are prepared already", file=sys.stderr)
    if left:
        (destination / MANIFEST).unlink(missing_ok=True)  # a manifest says that all it lists is there and current
    failures = [failure for failure in run_tasks(prepare_one, left, workers, "preparing") if failure]
    if len(failures) == 1:
        raise UserError(failures[0])
    if failures:
        for failure in failures:
            print(failure, file=sys.stderr)
        raise UserError(f"{len(failures)} files cannot be read, the first: {failures[0]}")


def is_done(task: Task) -> bool:
    """Whether a video was prepared, and its file has not changed since."""
    record = task.folder / RECORD
    return record.is_file() and read_json(record).get("source") == file_state(task.source.path)


def file_state(path: Path) -> list[int]:
    """Size and time of change: cheap to compare on every run."""
    state = path.stat()
    return [state.st_size, state.st_mtime_ns]


def prepare_one(task: Task) -> str | None:
    """Crop one video or photo into a folder of its own, there whole or not at all. What went wrong, or None."""
    try:
        frames = read_frames(task)
    except UserError as error:
        return str(error)
    try:
        write_crops(task, frames)
    except OSError as error:
        raise UserError(f"cannot write {task.folder}: {error.strerror or error}") from error
    return None


def write_crops(task: Task, frames: Frames) -> None:
    """Crops and record, in a folder that is there whole or not at all."""
    partial = task.folder.with_name(f".{task.folder.name}.partial")
    for stale in (partial, task.folder):
        shutil.rmtree(stale, ignore_errors=True)
    partial.mkdir(parents=True)
    rows, skipped = crop_frames(task, frames, partial)
    record = {"source": file_state(task.source.path), "rows": rows, "skipped": skipped}
    (partial / RECORD).write_text(json.dumps(record))
    os.replace(partial, task.folder)


def read_frames(task: Task) -> Frames:
    """The chosen frames of a video with their indices; a photo is one frame without an index."""
    if task.source.is_video:
        return list(sample_frames(task.source.path, task.settings.frames))
    return [(None, read_rgb(task.source.path))]


def crop_frames(task: Task, frames: Frames, folder: Path) -> tuple[Rows, Rows]:
    """Write the crops; the manifest's rows, and a row for each frame in which the face was not found."""
    source, settings = task.source, task.settings
    track = follow([detector().detect(image) for _, image in frames])
    rows: Rows = []
    skipped: Rows = []
    for (index, image), face, box in zip(frames, track, boxes(track, settings.missing), strict=True):
        named = {"method": source.method, "video": source.video, "frame": index}
        if face is None:
            skipped.append(named | {"action": "held" if box else "dropped"})
        if box is None:
            continue
        name = f"{index or 0:05d}.{settings.format}"
        content = encode_rgb(square_crop(image, box, settings.scale, settings.size), f".{settings.format}")
        (folder / name).write_bytes(content)
        row = {"path": f"{source.method}/{source.video}/{name}", "label": source.label, "split": source.split}
        found = {"box": [round(edge, 2) for edge in box], "score": round(face.score, 4) if face else None}
        rows.append(row | named | found | {"detector": detector().name, "sha256": hashlib.sha256(content).hexdigest()})
    return rows, skipped


@functools.cache
def detector() -> FaceDetector:
    """This process's detector."""
    return FaceDetector()


def write_manifest(tasks: list[Task], destination: Path) -> None:
    """Gather all videos' rows into manifest.jsonl and skipped.jsonl, tell what was skipped, print the sha256."""
    rows: Rows = []
    skipped: Rows = []
    for task in tasks:
        record = read_json(task.folder / RECORD)
        rows += [row | {"split": task.source.split} for row in record["rows"]]
        skipped += record["skipped"]
        report_skipped(task.source, record)
    if not rows:
        raise UserError(f"no face found in any of {len(tasks)} videos or photos")
    with replacing(destination / "skipped.jsonl") as file:
        file.write(json_lines(skipped))
    manifest = json_lines(sorted(rows, key=lambda row: row["path"]))
    with replacing(destination / MANIFEST) as file:
        file.write(manifest)
    print(f"{destination / MANIFEST}: {len(rows)} face crops from {len(tasks)} videos or photos")
    print(f"sha256 {hashlib.sha256(manifest).hexdigest()}")


def report_skipped(source: Source, record: dict[str, Any]) -> None:
    """One line on stderr for a video in some of whose frames no face was found."""
    if record["skipped"]:
        frames, action = len(record["skipped"]), record["skipped"][0]["action"]
        total = frames + len(record["rows"]) if action == "dropped" else len(record["rows"])
        print(f"{source.path}: no face in {frames} of {total} frames, {action}", file=sys.stderr)


def json_lines(rows: Rows) -> bytes:
    """One JSON object a line."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


if __name__ == "__main__":
    run(main)
