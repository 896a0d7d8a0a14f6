"""Cuts face crops out of videos or photos and lists them in a manifest, the input of train.py and evaluate.py.

    python examples/deepfake/prepare.py SOURCE DEST --compression c23 --profile recce

The way of a video to its crops:

1. SOURCE has the layout of FF++, Celeb-DF v2 or DFDC, or real/ and fake/: sources/ lists its videos with their splits.
2. Of a video's N decoded frames, K are taken: floor((i + 0.5) N / K) for i = 0 ... K - 1 (media/video.py).
3. In each frame the faces are detected (media/faces.py); one face is followed through the video (media/tracks.py).
4. A square of 1.3 times the face's box becomes DEST/<method>/<video>/<frame>.png (preparing/crops.py).
5. Last, manifest.jsonl lists all crops (preparing/manifest_lines.py). Its sha256 is printed: quote it with every
   result. A frame or video without a crop has a line there too, with the `problem`.

The same command gives the same bytes each time. After an interruption it continues where it stopped. With --shard i/n,
each of n machines does its part, into one DEST, or into one each whose folders are then copied together; the run that
finds all parts done writes the manifest, with the same sha256.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from deepfake.common.cli import Parser, UserError, in_range, path, positive_int, reading_input, run
from deepfake.common.destination import claim_destination
from deepfake.common.lock import locked
from deepfake.common.workers import run_tasks
from deepfake.dataset.manifest import MANIFEST, SPLITS
from deepfake.media.faces import CROP_SCALE
from deepfake.media.tracks import POLICIES
from deepfake.preparing.crops import is_done, prepare_one
from deepfake.preparing.frame_counts import DEFAULT_PROFILE, PROFILES
from deepfake.preparing.manifest_lines import write_manifest
from deepfake.preparing.tasks import CropSettings, Request, Task, check_missing, list_tasks
from deepfake.sources.labels import labels_option
from deepfake.sources.source import COMPRESSIONS, Selection

SETTINGS = "prepare.json"


def main(argv: Sequence[str] | None = None) -> None:
    """Prepare what the command line asks for."""
    args = parse_arguments(argv)
    with reading_input():
        tasks, missing, settings = list_tasks(args)
        check_missing(missing, args.source, args.allow_missing)
        report_without_boxes(tasks, args.boxes_file)
        claim_destination(args.destination, SETTINGS, settings)
    number, count = args.shard
    lock = args.destination / f".{number}of{count}.lock"
    with locked(lock, f"{args.destination}: another prepare.py is running there (shard {number}/{count})"):
        mine = tasks[number - 1 :: count]
        others = [task for index, task in enumerate(tasks) if index % count != number - 1]
        check_unreadable(prepare_all(mine, args.destination, args.workers), args.allow_missing)
        waiting = sum(not is_done(task, copied=True, unreadable=args.allow_missing) for task in others)
        if waiting:
            print(f"shard {number}/{count} is done; {waiting} of the other shards' {len(others)} sources are not yet")
        else:
            write_manifest(tasks, missing, args.destination)


def parse_arguments(argv: Sequence[str] | None) -> Request:
    """The command line's options. UserError with exit code 2 on a wrong one."""
    parser = Parser(description="Cut face crops out of videos or photos and list them in a manifest.")
    parser.add_argument("source", type=path, metavar="SOURCE", help="folder of FF++, Celeb-DF or DFDC, or with real/ "
        "and fake/")  # fmt: skip
    parser.add_argument("destination", type=path, metavar="DEST", help="folder to create, or to continue")

    what = parser.add_argument_group("what to take")
    what.add_argument("--compression", choices=COMPRESSIONS, default="c23", help="default: %(default)s")
    what.add_argument("--methods", nargs="+", metavar="METHOD", help="forgeries to take (default: all)")
    what.add_argument("--splits", nargs="+", choices=SPLITS, metavar="SPLIT", help="splits to take (default: all)")
    profiles = "; ".join(f"{name}: {rule}" for name, rule in PROFILES.items())
    frames = what.add_mutually_exclusive_group()
    text = f"frames per video (default: {DEFAULT_PROFILE}; with --index, all that it lists). {profiles}"
    frames.add_argument("--profile", choices=list(PROFILES), help=text)
    frames.add_argument("--frames", type=positive_int, help="frames of every video, instead of a profile")
    what.add_argument("--index", type=path, nargs="+", metavar="FILE", help="index files (DeepfakeBench's JSON, "
        "RECCE's pickles): take the videos, frames, labels and splits that they list")  # fmt: skip
    what.add_argument("--labels", type=labels_option, metavar="real=0,fake=1", help="what labels of index files "
        "mean that are numbers or unknown words")  # fmt: skip
    what.add_argument("--allow-missing", action="store_true", help="record missing and unreadable videos in the "
        "manifest instead of stopping with an error")  # fmt: skip

    how = parser.add_argument_group("how to crop")
    how.add_argument("--crop", choices=["face", "none"], default="face", help="none: the images are face crops "
        "already, take their central square (default: %(default)s)")  # fmt: skip
    how.add_argument("--boxes", type=path, metavar="CSV", help="boxes from another face detector: "
        "path,frame,x0,y0,x1,y1")  # fmt: skip
    how.add_argument("--size", type=in_range(int, 16, 4096), default=320, help="side of a crop in pixels (default: "
        "%(default)s)")  # fmt: skip
    how.add_argument("--scale", type=in_range(float, 0.1, 10), default=CROP_SCALE, help="side of the square over the "
        "box's longer side; beyond the frame its edge is repeated (default: %(default)s)")  # fmt: skip
    how.add_argument("--format", choices=["png", "jpg"], default="png", help="jpg: quality 95 (default: %(default)s)")
    how.add_argument("--missing", choices=POLICIES, default="hold", help="a frame without a face: hold the track's "
        "last box, or drop the frame (default: %(default)s)")  # fmt: skip

    work = parser.add_argument_group("work")
    work.add_argument("--workers", type=positive_int, default=2, help="processes (default: %(default)s)")
    work.add_argument("--shard", type=_shard, default=(1, 1), metavar="i/n", help="do part i of n, i from 1 to n")
    args = parser.parse_args(argv)
    if args.boxes and args.crop == "none":
        raise UserError("--boxes needs --crop face", exit_code=2)
    if args.labels and not args.index:
        raise UserError("--labels needs --index", exit_code=2)
    wanted = Selection(args.compression, args.methods, args.splits, args.index or (), args.labels or {})
    crop = CropSettings(args.crop, args.size, args.scale, args.format, args.missing)
    taken = args.source, args.destination, wanted, args.frames or args.profile, crop, args.boxes
    return Request(*taken, args.allow_missing, args.workers, args.shard)


def _shard(text: str) -> tuple[int, int]:
    """An argparse type: "2/8" as (2, 8)."""
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    number, count = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= number <= count:
        raise argparse.ArgumentTypeError(f"{text!r} is not i/n with i from 1 to n, such as 2/8")
    return number, count


def report_without_boxes(tasks: list[Task], boxes_file: Path | None) -> None:
    """On stderr: how many sources have no line in the boxes file."""
    without = [task.source.path for task in tasks if task.boxes is not None and not task.boxes]
    if without:
        counted = f"{len(without)} of {len(tasks)} videos or photos"
        print(f"{boxes_file}: no boxes for {counted}, the first: {without[0]}", file=sys.stderr)


def prepare_all(tasks: list[Task], destination: Path, workers: int) -> list[str]:
    """Prepare the sources that are not prepared yet; the reasons why files cannot be read."""
    left = [task for task in tasks if not is_done(task)]
    if len(left) < len(tasks):
        print(f"{len(tasks) - len(left)} of {len(tasks)} sources are prepared already", file=sys.stderr)
    if left:
        (destination / MANIFEST).unlink(missing_ok=True)  # a manifest promises that its crops are present and current
    return [reason for reason in run_tasks(prepare_one, left, workers, "preparing") if reason]


def check_unreadable(reasons: list[str], allowed: bool) -> None:
    """Name the files that cannot be read; UserError unless they are allowed."""
    for reason in reasons if len(reasons) > 1 or allowed else ():
        print(reason, file=sys.stderr)
    if reasons and not allowed:
        counted = f"{len(reasons)} files cannot be read, the first: " if len(reasons) > 1 else ""
        raise UserError(f"{counted}{reasons[0]} (--allow-missing records unreadable files and continues)")


if __name__ == "__main__":
    run(main)
