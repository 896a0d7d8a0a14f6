"""Gathers the records of all tasks into manifest.jsonl and reports what has no crop."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from pathlib import Path

from ..common.cli import UserError
from ..common.files import replacing
from ..common.texts import read_json
from ..dataset.manifest import MANIFEST
from ..sources.source import Source
from .crops import RECORD, Rows
from .tasks import Task


def write_manifest(tasks: list[Task], missing: list[Source], destination: Path) -> None:
    """Write the rows of all crops and problems, sorted; report the problems, print the sha256."""
    rows: Rows = []
    problems: Rows = [source.row() | {"problem": "missing"} for source in missing]
    for task in tasks:
        record = read_json(task.folder / RECORD)
        split = {"split": task.source.split}  # files of splits may have changed since the record
        rows += [row | split | {"video": task.source.manifest_video} for row in record["rows"]]
        problems += [problem | split for problem in record["problems"]]
    if not rows:
        raise UserError(f"no face found in any of {len(tasks)} videos or photos; --crop none takes face crops")
    rows.sort(key=lambda row: row["path"])
    problems.sort(key=lambda row: (row["method"], row["video"], row.get("frame") or 0))
    manifest = "".join(json.dumps(row) + "\n" for row in rows + problems).encode()
    with replacing(destination / MANIFEST) as file:
        file.write(manifest)
    _report(rows, problems)
    print(f"{destination / MANIFEST}: {len(rows)} face crops from {len(tasks)} videos or photos")
    print(f"sha256 {hashlib.sha256(manifest).hexdigest()}")


def _report(rows: Rows, problems: Rows) -> None:
    """On stderr: frames without a face, videos without crops, and how many videos show several faces."""
    held = Counter((row["method"], row["video"]) for row in rows if row["score"] is None)
    for (method, video), frames in held.items():
        print(f"{method}/{video}: no face in {frames} frames, cropped at the last box", file=sys.stderr)
    for problem in problems:
        frame = f", frame {problem['frame']}" if problem.get("frame") is not None else ""
        print(f"{problem['method']}/{problem['video']}{frame}: {problem['problem']}, no crop", file=sys.stderr)
    several = len({(row["method"], row["video"]) for row in rows if row["faces"] > 1})
    if several:
        print(f"several faces in {several} videos or photos: the largest track is kept (`faces`)", file=sys.stderr)
