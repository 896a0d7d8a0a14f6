"""The work of prepare.py: a task for each source whose file is present, and the settings that all crops share."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from ..common.cli import UserError
from ..common.files import short_name
from ..media.faces import face_detector
from ..sources.finding import find_sources
from ..sources.source import Selection, Source
from .boxes_file import FacesByFrame, read_boxes
from .frame_counts import DEFAULT_PROFILE, frame_counts

MOST_NAMED = 20  # folders with missing videos, and missing videos of each, that are named; the others are counted


@dataclass(frozen=True)
class CropSettings:
    """How a crop is cut out of any frame: prepare.py's options of these names."""

    crop: str
    size: int
    scale: float
    format: str
    missing: str


@dataclass(frozen=True)
class Request:
    """What prepare.py's command line asks for.

    `frames`: a number for every video, a profile, or None: all that the index files list, else DEFAULT_PROFILE.
    """

    source: Path
    destination: Path
    wanted: Selection
    frames: str | int | None
    crop: CropSettings
    boxes_file: Path | None
    allow_missing: bool
    workers: int
    shard: tuple[int, int]


@dataclass(frozen=True)
class Task:
    """One source to prepare; `settings_digest` stands for all that decides its crops' bytes besides its file."""

    source: Source
    count: int | None  # frames to take by the index rule; None: all that the source lists
    folder: Path
    crop: CropSettings
    settings_digest: str
    boxes: FacesByFrame | None = None  # from a boxes file, instead of the detector's


def list_tasks(request: Request) -> tuple[list[Task], list[Source], dict[str, Any]]:
    """The tasks, the sources whose file is missing, and the settings that are kept in prepare.json."""
    root = request.source
    sources = find_sources(root, request.wanted)
    names = [source.path.relative_to(root).as_posix() for source in sources]
    boxes = read_boxes(request.boxes_file, root, dict.fromkeys(names)) if request.boxes_file else None
    frames = request.frames or (None if request.wanted.indices else DEFAULT_PROFILE)
    settings = _settings(request, frames)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    tasks, missing = [], []
    for source, name, count in zip(sources, names, frame_counts(sources, frames), strict=True):
        if os.path.exists(source.path):
            folder = request.destination / source.method / short_name(source.video)
            faces = None if boxes is None else boxes.get(name, {})
            tasks.append(Task(source, count, folder, request.crop, digest, faces))
        else:
            missing.append(source)
    return tasks, missing, settings


def _settings(request: Request, frames: str | int | None) -> dict[str, Any]:
    """What decides the crops: options, contents of files, the detector and the versions of what decodes and resizes."""
    wanted, crop, boxes_file = request.wanted, request.crop, request.boxes_file
    labels = {"labels": dict(wanted.labels)} if wanted.labels else {}  # a key for all would disagree with older folders
    return labels | {
        "compression": wanted.compression,
        "methods": wanted.methods,
        "splits": wanted.splits,
        "frames": frames if isinstance(frames, int) else None,
        **asdict(crop),
        "profile": frames if isinstance(frames, str) else None,
        "index": [hashlib.sha256(file.read_bytes()).hexdigest() for file in wanted.indices],
        "boxes": hashlib.sha256(boxes_file.read_bytes()).hexdigest() if boxes_file else None,
        "detector": None if boxes_file or crop.crop == "none" else face_detector().name,
        "border": "edge pixels repeated",
        "versions": {"av": av.__version__, "opencv": cv2.__version__, "numpy": np.__version__},
    }


def check_missing(missing: list[Source], root: Path, allowed: bool) -> None:
    """Name the missing videos on stderr; UserError unless they are allowed."""
    folders: dict[Path, list[str]] = {}
    for source in missing:
        folders.setdefault(source.path.parent, []).append(source.path.name)
    for folder, names in list(folders.items())[:MOST_NAMED]:
        more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        print(f"missing in {folder}: {', '.join(names[:MOST_NAMED])}{more}", file=sys.stderr)
    if len(folders) > MOST_NAMED:
        print(f"missing in {len(folders) - MOST_NAMED} more folders too", file=sys.stderr)
    if missing and not allowed:
        raise UserError(
            f"{root}: {len(missing)} videos are missing, listed above (choose fewer with --methods or --splits, or "
            "record them with --allow-missing)"
        )
