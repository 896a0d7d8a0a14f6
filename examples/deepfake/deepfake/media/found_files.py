"""Finds images and videos below a folder, and says what was left out and why."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from ..common.cli import UserError, to_stderr_once
from .file_kinds import kind_of

NOT_PICTURES = frozenset({"@eaDir", "@__thumb", "__MACOSX", "#recycle", "@Recycle", "#snapshot", "$RECYCLE.BIN"})
"""Folders that network drives and archives add: thumbnails, copies, what was deleted."""
REASONS = {"image": "images", "video": "videos", None: "neither image nor video"}


@dataclass
class Found:
    """The files of a search, sorted; what was left out, by reason; one line for each that can't be read."""

    files: list[Path] = field(default_factory=list)
    left_out: dict[str, list[Path]] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)

    def leave_out(self, reason: str, path: Path) -> None:
        """Count one more file or folder."""
        self.left_out.setdefault(reason, []).append(path)

    def add(self, other: Found) -> None:
        """Join the counts of another search; its files are the caller's."""
        self.unreadable += other.unreadable
        for reason, paths in other.left_out.items():
            self.left_out.setdefault(reason, []).extend(paths)


def find_media(
    folder: Path,
    kinds: Collection[str] = ("image", "video"),
    own: Callable[[Path], bool] = lambda path: False,
    deep: bool = True,
) -> Found:
    """All files of these kinds below a folder (deep=False: in it), without those that the commands themselves drew.

    Links to folders are followed, except those to a folder that contains the link. What is hidden is left out.

    Args:
        own: whether a file is such a drawn one.
    """
    found = Found()

    def note(error: OSError) -> None:
        if Path(error.filename) != folder or os.path.exists(folder):  # a folder that is missing holds nothing
            found.unreadable.append(f"{error.filename}: cannot be read ({error.strerror})")

    for parent, folders, files in os.walk(folder, followlinks=True, onerror=note):
        here = Path(parent)
        for name in sorted(folders):
            if name[0] == "." or name in NOT_PICTURES:
                found.leave_out("hidden" if name[0] == "." else "folders of a network drive or archive", here / name)
            elif not deep:
                found.leave_out("folders", here / name)
        folders[:] = [name for name in folders if deep and _is_searched(here / name)]
        for name in sorted(files):
            if name[0] == ".":
                found.leave_out("hidden", here / name)
            else:
                _sort_in(here / name, kinds, own, found)
    found.files.sort()
    return found


def _is_searched(folder: Path) -> bool:
    return folder.name[0] != "." and folder.name not in NOT_PICTURES and not _leads_up(folder)


def _leads_up(folder: Path) -> bool:
    """Whether a folder is a link to one that contains it, or to one on the way to it that was itself a link's."""
    if not folder.is_symlink():
        return False
    target = folder.resolve()
    return any(above.resolve().is_relative_to(target) for above in folder.parents)


def _sort_in(path: Path, kinds: Collection[str], own: Callable[[Path], bool], found: Found) -> None:
    """Put one file where it belongs."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            found.leave_out("pipes or devices", path)
            return
        kind = kind_of(path)
    except OSError as error:
        found.unreadable.append(f"{path}: cannot be read ({error.strerror})")
        return
    except UserError as error:
        found.unreadable.append(str(error))
        return
    if kind not in kinds:
        found.leave_out(REASONS[kind], path)
    elif own(path):
        found.leave_out("drawn by these commands", path)
    else:
        found.files.append(path)


def report_left_out(root: Path, found: Found) -> None:
    """A line on stderr: how many files were left out and why. Not again for the same files (train reads each split)."""
    if not found.left_out:
        return
    reasons = [
        f"{len(paths)} {reason} ({_inside(paths[0], root)}{', ...' if len(paths) > 1 else ''})"
        for reason, paths in found.left_out.items()
    ]
    to_stderr_once(f"{root}: left out {', '.join(reasons)}")


def _inside(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def check_readable(found: Found) -> None:
    """UserError that names the first file or folder which can't be read: a data set is read whole or not at all."""
    if found.unreadable:
        more = f" and {len(found.unreadable) - 1} more" if len(found.unreadable) > 1 else ""
        raise UserError(f"{found.unreadable[0]}{more}")
