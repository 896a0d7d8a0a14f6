"""Any folder with real/ and fake/, of videos or photos, directly or below train/, val/ and test/.

A folder inside fake/ names the method. Deeper folders become part of the id (a/b.mp4 is a__b), images in them are the
frames of one video (a), and where several splits hold an id, the split becomes part of it. Splits as in manifest.py.
"""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

from ..common.cli import UserError
from ..common.files import files_below
from ..dataset.manifest import (
    CLASSES,
    IMAGE_SUFFIXES,
    SPLITS,
    folder_of_frames,
    group_of,
    group_of_path,
    method_and_identity,
    split_of_group,
)
from ..media.video import VIDEO_SUFFIXES
from .source import Source


def list_sources(root: Path) -> list[Source]:
    """Every video and photo. UserError where a class has none."""
    splits = [split for split in SPLITS if (root / split).is_dir()]
    found = []
    for split in splits or [""]:
        for label, name in enumerate(CLASSES):
            folder = root / split / name
            for path in files_below(folder, IMAGE_SUFFIXES | VIDEO_SUFFIXES):
                method, identity = method_and_identity(path.relative_to(folder), label, root)
                frames = folder_of_frames(identity) if path.suffix.lower() in IMAGE_SUFFIXES else None
                found.append(
                    Source(
                        *(path, label, method, _id(identity.with_suffix(""))),
                        split=split or split_of_group(group_of_path(identity)),
                        frame_of=_id(frames) if frames else None,
                    )
                )
    for label, name in enumerate(CLASSES):
        if all(source.label != label for source in found):
            raise UserError(
                f"{root}: no {name} videos or photos (wanted FF++'s, Celeb-DF's or DFDC's folders, or real/ and fake/)"
            )
    _warn_of_donors(found)
    return _told_apart(found)


def _id(path: Path) -> str:
    return "__".join(path.parts)


def _warn_of_donors(sources: list[Source]) -> None:
    """Tell of fakes that are named after several persons (007_012) of whom a real is in other splits only.

    No error: names are the user's own, and a number in one may be no person.
    """
    splits_of: dict[str, set[str]] = {}
    for source in sources:
        if not source.label:
            splits_of.setdefault(group_of(source.judged_as), set()).add(source.split)
    crossing: dict[tuple[str, str], tuple[Source, str]] = {}
    for source in sources:
        parts = re.split("[_-]", source.judged_as)
        for part in parts if source.label and len(parts) > 1 else ():
            if source.split not in splits_of.get(part, {source.split}):
                crossing.setdefault((source.method, source.judged_as), (source, part))
    if crossing:
        source, part = next(iter(crossing.values()))
        print(
            f"warning: {len(crossing)} fakes are named after a real of another split, the first: {source.path} is in "
            f"{source.split}, {part} in {' and '.join(sorted(splits_of[part]))} (folders train/, val/ and test/ can "
            "keep them together)",
            file=sys.stderr,
        )


def _told_apart(sources: list[Source]) -> list[Source]:
    """The sources, those of an id that several splits hold, as real or by any method, with the split before it.

    0001.png may be in each, and in a manifest an id is in one split.
    """
    splits_of: dict[str, set[str]] = {}
    for source in sources:
        splits_of.setdefault(source.judged_as, set()).add(source.split)
    return [_with_split(source) if len(splits_of[source.judged_as]) > 1 else source for source in sources]


def _with_split(source: Source) -> Source:
    return replace(
        source,
        video=f"{source.split}__{source.video}",
        frame_of=source.frame_of and f"{source.split}__{source.frame_of}",
    )
