"""Turns videos or photos into face crops with a manifest, the same on every run: what train.py and evaluate.py read.

    python examples/deepfake/prepare.py SOURCE DEST --compression c23 --profile recce

SOURCE is laid out as FF++, Celeb-DF v2 or DFDC, or has real/ and fake/ (sources.py). Of each video, K frames at
floor((i + 0.5) N / K) of its N decoded frames; in them one face, followed by track (tracks.py); around it a square of
1.3 times its box (faces.py). DEST gets <method>/<video>/<frame>.png and, last and whole, manifest.jsonl, whose sha256
is printed: quote it with every result. Frames and videos that gave no crop have a line with a `problem` in it.

A run that was stopped goes on where it was. With --shard i/n each of n machines does its part, into one DEST or into
one each whose folders are then copied together: the run that finds all parts done writes the manifest, with the same
sha256.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from deepfake.common.cli import Parser, UserError, in_range, path, positive_int, reading_input, run
from deepfake.common.destination import claim_destination
from deepfake.common.files import read_json, replacing
from deepfake.common.lock import locked
from deepfake.common.workers import run_tasks
from deepfake.dataset.manifest import MANIFEST, SPLITS
from deepfake.media.faces import CROP_SCALE, FaceDetector
from deepfake.media.tracks import POLICIES
from deepfake.preparing.boxes_file import check_paths, read_boxes
from deepfake.preparing.crops import RECORD, Cut, Rows, Task, is_done, prepare_one
from deepfake.preparing.frame_counts import PROFILES, frame_counts
from deepfake.sources.finding import Selection, find_sources
from deepfake.sources.source import Source

SETTINGS = "prepare.json"
TOLD = 20  # missing videos named one by one, a folder's others by their number


def main(argv: Sequence[str] | None = None) -> None:
    """Prepare what the command line asks for."""
    arguments = parse_arguments(argv)
    with reading_input():
        tasks, missing, settings = plan(arguments)
        check_missing(missing, arguments)
        tell_boxless(tasks, arguments)
        claim_destination(arguments.destination, SETTINGS, settings)
    number, count = arguments.shard
    lock = arguments.destination / f".{number}of{count}.lock"
    with locked(lock, f"{arguments.destination}: another prepare.py is at work there (shard {number}/{count})"):
        failures = prepare_all(tasks[number - 1 :: count], arguments)
        check_failures(failures, arguments)
        others = [task for place, task in enumerate(tasks) if place % count != number - 1]
        waiting = sum(not is_done(task, copied=True, unreadable=arguments.allow_missing) for task in others)
        if waiting:
            print(f"shard {number}/{count} is done; {waiting} of the other shards' {len(others)} sources are not there")
        else:
            write_manifest(tasks, missing, arguments.destination)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(description="Turn videos or photos into face crops and a manifest.")
    parser.add_argument("source", type=path, metavar="SOURCE", help="FF++, Celeb-DF or DFDC, or real/ and fake/")
    parser.add_argument("destination", type=path, metavar="DEST", help="folder to make, or to go on with")

    what = parser.add_argument_group("what to take")
    what.add_argument("--compression", choices=["raw", "c23", "c40"], default="c23", help="default: %(default)s")
    what.add_argument("--methods", nargs="+", metavar="METHOD", help="forgeries to take (default: all)")
    what.add_argument("--splits", nargs="+", choices=SPLITS, metavar="SPLIT", help="default: all")
    profiles = "; ".join(f"{name}: {rule}" for name, rule in PROFILES.items())
    frames = what.add_mutually_exclusive_group()
    frames.add_argument("--profile", choices=list(PROFILES), help=f"frames a video (default: bench32). {profiles}")
    frames.add_argument("--frames", type=positive_int, help="frames of every video, instead of a profile")
    what.add_argument("--index", type=path, nargs="+", metavar="FILE", help="DeepfakeBench's JSON or RECCE's pickles: "
        "takes their videos, frames, labels and splits")  # fmt: skip
    what.add_argument("--allow-missing", action="store_true", help="record videos that are missing or cannot be read "
        "in the manifest instead of failing")  # fmt: skip

    how = parser.add_argument_group("how to crop")
    how.add_argument("--crop", choices=["face", "none"], default="face", help="none: the pictures are face crops "
        "already, take their central square (default: %(default)s)")  # fmt: skip
    how.add_argument("--boxes", type=path, metavar="CSV", help="faces found elsewhere: path,frame,x0,y0,x1,y1")
    how.add_argument("--size", type=in_range(int, 16, 4096), default=320, help="side of a crop (default: %(default)s)")
    how.add_argument("--scale", type=in_range(float, 0.1, 10), default=CROP_SCALE, help="side of the square over the "
        "box's longer side; beyond the frame its edge is repeated (default: %(default)s)")  # fmt: skip
    how.add_argument("--format", choices=["png", "jpg"], default="png", help="jpg: quality 95 (default: %(default)s)")
    how.add_argument("--missing", choices=POLICIES, default="hold", help="a frame without a face: hold the track's "
        "last box, or drop the frame (default: %(default)s)")  # fmt: skip

    work = parser.add_argument_group("work")
    work.add_argument("--workers", type=positive_int, default=2, help="processes (default: %(default)s)")
    work.add_argument("--shard", type=shard, default=(1, 1), metavar="i/n", help="do the i-th of n parts, from 1 on")
    arguments = parser.parse_args(argv)
    if arguments.boxes and arguments.crop == "none":
        raise UserError("--boxes needs --crop face", exit_code=2)
    return arguments


def shard(text: str) -> tuple[int, int]:
    """An argparse type: "2/8"."""
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    number, count = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= number <= count:
        raise argparse.ArgumentTypeError(f"{text!r} is not i/n, i from 1 to n")
    return number, count


def plan(arguments: argparse.Namespace) -> tuple[list[Task], list[Source], dict[str, Any]]:
    """A task for each source that is there, the sources that are not, and the settings that all crops share."""
    methods, splits = (tuple(chosen) if chosen else None for chosen in (arguments.methods, arguments.splits))
    wanted = Selection(arguments.compression, methods, splits, tuple(arguments.index or ()))
    sources = find_sources(arguments.source, wanted)
    names = [source.path.relative_to(arguments.source).as_posix() for source in sources]
    found = read_boxes(arguments.boxes) if arguments.boxes else None
    if found is not None:
        check_paths(found, dict.fromkeys(names), arguments.source, arguments.boxes)
    settings = describe(arguments)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    cut = Cut(*(getattr(arguments, name) for name in Cut.__dataclass_fields__))
    listed_only = bool(arguments.index) and not (arguments.profile or arguments.frames)
    counts = frame_counts(sources, arguments.frames or arguments.profile or "bench32")
    tasks, missing = [], []
    for source, name, count in zip(sources, names, counts, strict=True):
        if not source.path.exists():
            missing.append(source)
            continue
        folder = arguments.destination / source.method / source.video
        faces = None if found is None else found.get(name, {})
        tasks.append(Task(source, None if listed_only else count, folder, cut, digest, faces))
    return tasks, missing, settings


def describe(arguments: argparse.Namespace) -> dict[str, Any]:
    """What decides the set: arguments, files, detector, and the versions that go with them."""
    names = ("compression", "methods", "splits", "frames", "crop", "size", "scale", "format", "missing")
    versions = {"av": av.__version__, "opencv": cv2.__version__, "numpy": np.__version__}
    return {name: getattr(arguments, name) for name in names} | {
        "profile": None if arguments.frames else arguments.profile or (None if arguments.index else "bench32"),
        "index": [digest_of(file) for file in arguments.index or ()],
        "boxes": digest_of(arguments.boxes) if arguments.boxes else None,
        "detector": None if arguments.boxes or arguments.crop == "none" else FaceDetector().name,
        "border": "edge pixels repeated",
        "versions": versions,
    }


def digest_of(file: Path) -> str:
    """A file's sha256."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from error


def check_missing(missing: list[Source], arguments: argparse.Namespace) -> None:
    """Name the videos that are not there; an error unless they are allowed."""
    folders: dict[Path, list[str]] = {}
    for source in missing:
        folders.setdefault(source.path.parent, []).append(source.path.name)
    for folder, names in folders.items():
        more = f" and {len(names) - TOLD} more" if len(names) > TOLD else ""
        print(f"missing in {folder}: {', '.join(names[:TOLD])}{more}", file=sys.stderr)
    if missing and not arguments.allow_missing:
        raise UserError(
            f"{arguments.source}: {len(missing)} videos are missing, listed above (--methods and --splits ask for "
            "fewer, --allow-missing records them)"
        )


def tell_boxless(tasks: list[Task], arguments: argparse.Namespace) -> None:
    """On stderr: how many sources the boxes file has no line of."""
    boxless = [str(task.source.path) for task in tasks if task.found is not None and not task.found]
    if boxless:
        told = f"no boxes for {len(boxless)} of {len(tasks)} videos or photos, the first: {boxless[0]}"
        print(f"{arguments.boxes}: {told}", file=sys.stderr)


def prepare_all(tasks: list[Task], arguments: argparse.Namespace) -> list[str]:
    """Prepare each video that is not there yet; what is wrong with the files that can't be read."""
    left = [task for task in tasks if not is_done(task)]
    if len(left) < len(tasks):
        print(f"{len(tasks) - len(left)} of {len(tasks)} sources are prepared already", file=sys.stderr)
    if left:
        (arguments.destination / MANIFEST).unlink(missing_ok=True)  # it says that all it lists is there and current
    done = run_tasks(prepare_one, left, arguments.workers, "preparing")
    return [reason for reason in done if reason]


def check_failures(failures: list[str], arguments: argparse.Namespace) -> None:
    """Name the files that can't be read; an error unless they are allowed."""
    for failure in failures if len(failures) > 1 or arguments.allow_missing else ():
        print(failure, file=sys.stderr)
    if failures and not arguments.allow_missing:
        counted = f"{len(failures)} files cannot be read, the first: " if len(failures) > 1 else ""
        raise UserError(f"{counted}{failures[0]} (--allow-missing records such)")


def write_manifest(tasks: list[Task], missing: list[Source], destination: Path) -> None:
    """Gather all videos' rows into manifest.jsonl, tell what gave no crops, print the sha256."""
    rows: Rows = []
    problems: Rows = []
    for task in tasks:
        record = read_json(task.folder / RECORD)
        split = {"split": task.source.split}
        rows += [row | split | {"video": task.source.judged_as} for row in record["rows"]]
        problems += [problem | split for problem in record["problems"]]
    for source in missing:
        problems.append(source.row() | {"problem": "missing"})
    if not rows:
        raise UserError(f"no face found in any of {len(tasks)} videos or photos")
    rows.sort(key=lambda row: row["path"])
    problems.sort(key=lambda row: (row["method"], row["video"], row.get("frame") or 0))
    manifest = "".join(json.dumps(row) + "\n" for row in rows + problems).encode()
    with replacing(destination / MANIFEST) as file:
        file.write(manifest)
    report(rows, problems)
    print(f"{destination / MANIFEST}: {len(rows)} face crops from {len(tasks)} videos or photos")
    print(f"sha256 {hashlib.sha256(manifest).hexdigest()}")


def report(rows: Rows, problems: Rows) -> None:
    """On stderr: videos with frames that have no face or several, and what became of them."""
    held = Counter((row["method"], row["video"]) for row in rows if row["score"] is None)
    for (method, video), frames in held.items():
        print(f"{method}/{video}: no face in {frames} frames, cropped at the last box", file=sys.stderr)
    for problem in problems:
        frame = f", frame {problem['frame']}" if problem.get("frame") is not None else ""
        print(f"{problem['method']}/{problem['video']}{frame}: {problem['problem']}, no crop", file=sys.stderr)
    several = len({(row["method"], row["video"]) for row in rows if row["faces"] > 1})
    if several:
        print(f"several faces in {several} videos or photos: the largest track is kept (`faces`)", file=sys.stderr)


if __name__ == "__main__":
    run(main)
