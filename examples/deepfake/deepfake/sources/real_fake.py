"""Any folder with real/ and fake/, of videos or photos, directly or below train/, val/ and test/.

A folder inside fake/ names the method. Deeper folders become part of the id (a/b.mp4 is a__b); the images in one are
the frames of one video (a). A video beside a photo of the same name, as in a Live Photo, has its suffix in its id
(a__mov). Where several splits have the same id, the split becomes part of it. Without split folders
the split is chosen as in dataset/manifest.py.
"""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

from ..common.cli import UserError
from ..dataset.manifest import CLASSES, files_of_classes, folder_of_frames, group_of
from ..media.file_kinds import kind_of
from .source import Selection, Source


def list_sources(root: Path, wanted: Selection) -> list[Source]:
    """Every video and photo below real/ and fake/. UserError where a class has none."""
    listed = list(files_of_classes(root, ("image", "video")))
    photos = {path for path, *_ in listed if kind_of(path) == "image"}
    first: dict[Path, Path] = {}  # of the files of one name, such as a Live Photo's: it has no suffix in its id
    for path in sorted((path for path, *_ in listed), key=lambda path: (path not in photos, path)):
        first.setdefault(path.with_suffix(""), path)
    found = []
    for path, label, split, method, identity in listed:
        video = "__".join(identity.with_suffix("").parts)
        if path != first[path.with_suffix("")]:
            video += f"__{path.suffix[1:].lower()}"
        frames = folder_of_frames(identity) if path in photos else None
        frame_of = "__".join(frames.parts) if frames else None
        found.append(Source(path, label, method, video, split, frame_of=frame_of))
    for label, name in enumerate(CLASSES):
        if all(source.label != label for source in found):
            raise UserError(
                f"{root}: no {name} videos or photos (wanted FF++'s, Celeb-DF's or DFDC's folders, or real/ and fake/)"
            )
    _warn_of_donors(found)
    return _with_distinct_ids(found)


def _warn_of_donors(sources: list[Source]) -> None:
    """Warn of fakes that are named after several people (007_012), one of whom has reals in other splits only.

    No error: the names are the user's own, and a number in one need not be a person.
    """
    splits_of: dict[str, set[str]] = {}
    for source in sources:
        if not source.label:
            splits_of.setdefault(group_of(source.manifest_video), set()).add(source.split)
    crossing: dict[tuple[str, str], tuple[Source, str]] = {}
    for source in sources:
        parts = re.split("[_-]", source.manifest_video)
        for part in parts if source.label and len(parts) > 1 else ():
            if source.split not in splits_of.get(part, {source.split}):
                crossing.setdefault((source.method, source.manifest_video), (source, part))
    if crossing:
        source, part = next(iter(crossing.values()))
        print(
            f"warning: {len(crossing)} fakes are named after a real of another split, the first: {source.path} is in "
            f"{source.split}, {part} in {' and '.join(sorted(splits_of[part]))} (put both into one of the folders "
            "train/, val/ and test/ to keep them together)",
            file=sys.stderr,
        )


def _with_distinct_ids(sources: list[Source]) -> list[Source]:
    """The sources; an id that several splits have, as real or by any method, gets the split before it.

    0001.png may be in each split, but in a manifest an id is in one.
    """
    splits_of: dict[str, set[str]] = {}
    for source in sources:
        splits_of.setdefault(source.manifest_video, set()).add(source.split)
    return [_with_split(source) if len(splits_of[source.manifest_video]) > 1 else source for source in sources]


def _with_split(source: Source) -> Source:
    frame_of = source.frame_of and f"{source.split}__{source.frame_of}"
    return replace(source, video=f"{source.split}__{source.video}", frame_of=frame_of)
