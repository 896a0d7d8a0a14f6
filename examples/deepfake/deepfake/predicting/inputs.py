"""The inputs of predict.py and explain.py: their options, the files that paths stand for, names for their pictures."""

from __future__ import annotations

import argparse
import stat
from collections.abc import Callable
from pathlib import Path

from ..common import cli
from ..common.cli import UserError, to_stderr
from ..common.files import LONGEST_NAME, short_name
from ..media.detectors import DEFAULT, DETECTORS
from ..media.found_files import find_media, report_left_out

ANNOTATED, EXPLAINED = ".annotated", ".explained"
"""Endings of the names of pictures that the commands write; such files in a folder are not inputs."""
LONGEST_STEM = LONGEST_NAME - 30  # leaves room for the longest ending and a number


def add_input_options(parser: argparse.ArgumentParser, paths: str = "+") -> None:
    """RUN, PATH..., --crop and --detector; `paths` "*": a command that also works without PATH."""
    parser.add_argument("run", type=cli.path, metavar="RUN", help="run folder of train.py, or one of save_pretrained")
    parser.add_argument("paths", type=cli.path, nargs=paths, metavar="PATH", help="images, videos, or folders of them")
    parser.add_argument(
        "--crop",
        choices=("face", "none"),
        default="face",
        help="face: crop the largest face; none: the pictures are face crops already (default: %(default)s)",
    )
    parser.add_argument(
        "--detector",
        choices=tuple(DETECTORS),
        default=DEFAULT,
        help="what finds the face; yunet: turned, small, dark and covered ones too (default: %(default)s)",
    )


def each_input(paths: list[Path], action: Callable[[Path], None]) -> int:
    """Call `action` with every file; a folder stands for all images and videos below it, sorted.

    An input that fails is one line on standard error. Returns the exit code: 1 if an input failed, else 0.
    """
    failed = 0
    for path in paths:
        try:
            if _is_folder(path):
                failed |= _each_in_folder(path, action)
            else:
                action(path)
        except UserError as error:
            failed = 1
            to_stderr(f"error: {error}")
    return failed


def _each_in_folder(folder: Path, action: Callable[[Path], None]) -> int:
    """`each_input` of what is below a folder; a line says what was left out, one more each what can't be read."""
    found = find_media(folder, own=_is_drawn)
    report_left_out(folder, found)
    for line in found.unreadable:
        to_stderr(f"error: {line}")
    if not found.files and not found.unreadable:
        raise UserError(f"{folder}: holds no image or video")
    return each_input(found.files, action) | bool(found.unreadable)


def _is_drawn(path: Path) -> bool:
    """Whether a file's name is one that the commands give to their pictures."""
    return path.stem.removesuffix(".curve").endswith((ANNOTATED, EXPLAINED))


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error


class DistinctNames:
    """A name for the pictures of each input: its own, with a number where another input has the same name."""

    def __init__(self) -> None:
        self._input_of: dict[str, Path] = {}

    def of(self, path: Path) -> str:
        """The input's name without suffix; the same input always has the same."""
        stem = short_name(path.stem, LONGEST_STEM)
        name, number = stem, 2
        while self._input_of.setdefault(name, path) != path:
            name, number = f"{stem}-{number}", number + 1
        return name
