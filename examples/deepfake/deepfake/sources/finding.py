"""What there is to prepare: one Source a video, photo or folder of frames, listed by the layout that a folder has.

The layouts: FaceForensics++'s tree (ffpp.py), Celeb-DF v2 (celebdf.py), DFDC's folders (dfdc.py), and any folder with
real/ and fake/ (real_fake.py). An index file of DeepfakeBench or RECCE takes the place of the layout (index_files.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from ..common.cli import UserError
from . import celebdf, dfdc, ffpp, real_fake
from .index_files import read_indices
from .source import Source, check_methods

__all__ = ["Source", "find_sources"]


@dataclass(frozen=True)
class Selection:
    """Which sources of a folder are wanted; None: all."""

    compression: str = "c23"
    methods: tuple[str, ...] | None = None
    splits: tuple[str, ...] | None = None
    indices: tuple[Path, ...] = ()


def find_sources(root: Path, wanted: Selection) -> list[Source]:
    """All that the layout or the index names, sorted by method and id, whether its file is there or not.

    UserError, naming the folder or file, where `root` has no known layout, lacks a class or a method that was asked
    for, or where a video is in no split, in two, its donor is in another one, or its name can't be a folder's.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    found = _list(root, wanted)
    for source in found:
        _check_names(source)
    if wanted.methods is not None:
        check_methods(wanted.methods, {source.method for source in found if source.label}, root)
        found = [source for source in found if not source.label or source.method in wanted.methods]
    if wanted.splits is not None:
        found = [source for source in found if source.split in wanted.splits]
        if not found:
            raise UserError(f"{root}: nothing in the splits {', '.join(wanted.splits)}")
    found.sort(key=lambda source: (source.label, source.method, source.video))
    for one, other in pairwise(found):
        if (one.method, one.video) == (other.method, other.video):
            raise UserError(f"{one.path} and {other.path} would have the same id {one.method}/{one.video}")
    return found


def _list(root: Path, wanted: Selection) -> list[Source]:
    if wanted.indices:
        return read_indices(wanted.indices, root, wanted.compression, wanted.splits)
    if ffpp.is_tree(root):
        return ffpp.list_sources(root, wanted.compression, wanted.methods)
    if celebdf.is_tree(root):
        return celebdf.list_sources(root)
    if dfdc.is_tree(root):
        return dfdc.list_sources(root)
    return real_fake.list_sources(root)


def _check_names(source: Source) -> None:
    """UserError unless method and id can be names of folders: what they would lead to is cleared and written anew."""
    for what, name in (("method", source.method), ("id", source.video)):
        if name in ("", ".", "..") or set(name) & set("/\\\0"):
            raise UserError(f"{source.path}: {what} {name!r} (wanted a folder's name, without / and \\)")
