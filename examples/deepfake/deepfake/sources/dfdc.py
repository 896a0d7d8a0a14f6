"""DFDC's folders: videos beside a metadata.json {"a.mp4": {"label": "FAKE", "original": "b.mp4", "split": "train"}}.

The folder has one metadata.json, or folders with one each, up to three levels deep: each part of DFDC's train set comes
in a folder of its own, as dfdc_train_part_00/dfdc_train_part_0/. Where these name several splits, they count
("validation" means val). Where all videos are in one split, as in DFDC's train parts, a hash of the original's name
splits them 70/15/15, so that a fake is always in its original's split.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..common.cli import UserError
from ..common.texts import read_json
from ..dataset.manifest import CLASSES, SPLIT_FOLDERS, SPLITS, split_of_group
from .source import Selection, Source

METADATA = "metadata.json"
LEVELS = 3
LABELS = {"REAL": 0, "FAKE": 1}


def is_tree(root: Path) -> bool:
    """Whether a folder has DFDC's layout."""
    return bool(_metadata_files(root))


def _metadata_files(folder: Path, levels: int = LEVELS) -> list[Path]:
    """The metadata.json of a folder and of those in it. One that has real/ or fake/ is of another layout."""
    try:
        inside = sorted(Path(entry) for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != ".")
    except OSError:
        return []
    if any(path.name in CLASSES for path in inside):
        return []
    found = [folder / METADATA] if (folder / METADATA).is_file() else []
    return found + [file for path in inside if levels for file in _metadata_files(path, levels - 1)]


def list_sources(root: Path, wanted: Selection) -> list[Source]:
    """Every video that a metadata.json names. UserError on a wrong row, or a fake in another split than its real."""
    rows = [(file, name, row) for file in _metadata_files(root) for name, row in read_json(file).items()]
    if not rows:
        raise UserError(f"{root}: {METADATA} names no videos")
    named = [_named_split(*row) for row in rows]
    one_only = len(set(named)) == 1
    found = []
    split_of: dict[str, str] = {}
    for (file, name, row), split in zip(rows, named, strict=True):
        label = LABELS.get(str(row.get("label")).upper())
        if label is None:
            raise UserError(f"{file}: label {row.get('label')!r} of {name} (wanted REAL or FAKE)")
        group = Path(str(row.get("original") or name)).stem if label else Path(name).stem
        split = split_of_group(group) if one_only else split
        if split_of.setdefault(group, split) != split:
            raise UserError(f"{file}: {name} is in {split}, but others of {group} are in {split_of[group]}")
        found.append(Source(file.parent / name, label, "fake" if label else "real", Path(name).stem, split))
    return found


def _named_split(file: Path, name: str, row: Any) -> str:
    split = row.get("split", "train") if isinstance(row, dict) else None
    known = SPLIT_FOLDERS.get(split) if isinstance(split, str) else None
    if known is None:
        raise UserError(f"{file}: {name}: {str(row)[:60]} (wanted label and, in a split of {', '.join(SPLITS)}, split)")
    return known
