"""Any folder with real/ and fake/, of videos or photos, directly or below train/, val/ and test/.

A folder inside fake/ names the method. Deeper folders become part of the id (a/b.mp4 is a__b), and so does the split
where several splits hold a file of that name. Splits as in manifest.py.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cli import UserError
from files import files_below
from manifest import CLASSES, IMAGE_SUFFIXES, SPLITS, group_of, method_and_identity, split_of_group
from source import Source
from video import VIDEO_SUFFIXES


def list_sources(root: Path) -> list[Source]:
    """Every video and photo. UserError where a class has none."""
    splits = [split for split in SPLITS if (root / split).is_dir()]
    found = []
    for split in splits or [""]:
        for label, name in enumerate(CLASSES):
            folder = root / split / name
            for path in files_below(folder, IMAGE_SUFFIXES | VIDEO_SUFFIXES):
                method, identity = method_and_identity(path.relative_to(folder), label, root)
                video = "__".join(identity.with_suffix("").parts)
                found.append(Source(path, label, method, video, split or split_of_group(group_of(path.stem))))
    for label, name in enumerate(CLASSES):
        if all(source.label != label for source in found):
            raise UserError(
                f"{root}: no {name} videos or photos (wanted FF++'s, Celeb-DF's or DFDC's folders, or real/ and fake/)"
            )
    return _told_apart(found)


def _told_apart(sources: list[Source]) -> list[Source]:
    """The sources, those of an id that several splits hold with the split before it: 0001.png may be in each."""
    splits_of: dict[tuple[str, str], set[str]] = {}
    for source in sources:
        splits_of.setdefault((source.method, source.video), set()).add(source.split)
    return [
        replace(source, video=f"{source.split}__{source.video}")
        if len(splits_of[source.method, source.video]) > 1
        else source
        for source in sources
    ]
