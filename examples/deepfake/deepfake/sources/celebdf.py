"""Celeb-DF v2: Celeb-real/, YouTube-real/, Celeb-synthesis/ and List_of_testing_videos.txt ("1 <path>" real, "0" fake).

The list is the test split. Of the other videos, those of about one target person in ten are val, the rest train. A
fake's donor may be in another split: Celeb-DF's own test list does not keep them apart either.
"""

from __future__ import annotations

from pathlib import Path

from ..common.cli import UserError
from ..common.texts import numbered_lines, read_text
from ..dataset.manifest import hashed
from ..media.found_files import Found, check_readable, find_media, report_left_out
from .source import Selection, Source

FOLDERS = {"Celeb-real": "real", "YouTube-real": "real", "Celeb-synthesis": "Celeb-synthesis"}  # and the method of each
TEST_LIST = "List_of_testing_videos.txt"
VAL_PEOPLE = 0.1  # share of the target people outside the test list


def is_tree(root: Path) -> bool:
    """Whether a folder has Celeb-DF's layout."""
    return any((root / name).is_dir() for name in ("Celeb-real", "Celeb-synthesis"))


def list_sources(root: Path, wanted: Selection) -> list[Source]:
    """Every video in the folders, and those that the test list names. UserError where the list is missing or wrong."""
    listed = _read_list(root / TEST_LIST)
    found = []
    for name in sorted(_present(root) | listed):
        path, method = root / name, FOLDERS[Path(name).parts[0]]
        split = "test" if name in listed else "val" if hashed(path.stem.split("_")[0]) < VAL_PEOPLE else "train"
        found.append(Source(path, int(method != "real"), method, path.stem, split))
    return found


def _present(root: Path) -> set[str]:
    """The paths of all videos in the folders, as the test list writes them."""
    found = Found()
    for name in FOLDERS:
        inside = find_media(root / name, ("video",))
        found.files += inside.files
        found.add(inside)
    check_readable(found)
    report_left_out(root, found)
    return {path.relative_to(root).as_posix() for path in found.files}


def _read_list(file: Path) -> set[str]:
    try:
        text = read_text(file)
    except UserError as error:
        raise UserError(f"{error} (it says what the test split is)") from error
    listed = set()
    for number, line in numbered_lines(text):
        label, _, name = line.strip().partition(" ")
        folder = name.strip().split("/")[0]
        if folder not in FOLDERS or label != str(int(FOLDERS[folder] == "real")):
            raise UserError(f"{file}, line {number}: {line!r} (wanted 1 or 0, for real or fake, and a path)")
        listed.add(name.strip())
    if not listed:
        raise UserError(f"{file}: names no videos")
    return listed
