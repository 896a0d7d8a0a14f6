"""Finds the sources of a folder: recognises its layout, lists what the layout names, checks it and keeps the wanted."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

from ..common.cli import UserError
from ..common.files import LONGEST_NAME
from . import celebdf, dfdc, ffpp, index_files, real_fake
from .source import Selection, Source, check_methods

LAYOUTS = (ffpp, celebdf, dfdc)  # a folder of none of these is read by real_fake.py


def find_sources(root: Path, wanted: Selection) -> list[Source]:
    """The wanted sources that the layout or the index names, files present or missing, sorted by method and id.

    UserError, naming the folder or file: `root` has no known layout; a class or a wanted method is missing; a video is
    listed twice, in no split, or in another split than its donor; a name cannot be a folder's.
    """
    if not os.path.isdir(root):
        raise UserError(f"{root}: no such folder")
    if wanted.indices:
        found = index_files.list_sources(root, wanted)
    else:
        found = next((layout for layout in LAYOUTS if layout.is_tree(root)), real_fake).list_sources(root, wanted)
    for source in found:
        _check_names(source, root)
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
            both = " and ".join(f"{source.path} (in {source.split})" for source in (one, other))
            raise UserError(f"{both} have the same id {one.method}/{one.video} (wanted each video once, in one split)")
    return found


def _check_names(source: Source, root: Path) -> None:
    """UserError unless the path is below `root`, and method and id are names of folders: these will be replaced."""
    if not source.path.is_relative_to(root) or ".." in source.path.relative_to(root).parts:
        raise UserError(f"{source.path}: leads out of {root}")
    if len(os.fsencode(source.method)) > LONGEST_NAME:
        raise UserError(f"{source.path}: method {source.method[:100]}... (wanted at most {LONGEST_NAME} bytes)")
    for what, name in (("method", source.method), ("id", source.video)):
        if name in ("", ".", "..") or set(name) & set("/\\\0"):
            raise UserError(f"{source.path}: {what} {name!r} (wanted a folder's name, without / and \\)")
