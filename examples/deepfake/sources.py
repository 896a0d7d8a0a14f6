"""Finds the videos and photos to prepare: an FF++ tree, or a folder with real/ and fake/; each with label and split.

FF++ tree: original_sequences/youtube/<compression>/videos/NNN.mp4 and
manipulated_sequences/<method>/<compression>/videos/<target>_<source>.mp4. Its splits are those of splits/*.json in the
tree, in FF++'s own format (lists of [target, source] pairs), else FF++'s official ones (ffpp_splits.csv).

Other folder: real/ and fake/ with videos or photos, directly or below train/, val/ and test/; a folder inside fake/
names the method. Deeper folders become part of the id (a/b.mp4 is a__b), and so does the split where several splits
hold a file of that name. Splits as in manifest.py.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from cli import UserError
from files import files_below
from manifest import CLASSES, IMAGE_SUFFIXES, SPLITS, _split_of, group_of, method_and_identity
from video import VIDEO_SUFFIXES

ORIGINAL = Path("original_sequences", "youtube")
MANIPULATED = Path("manipulated_sequences")
OFFICIAL_SPLITS = Path(__file__).with_name("ffpp_splits.csv")


@dataclass(frozen=True)
class Source:
    """One video or photo: `video` is its id, unique within its method ("real" for reals)."""

    path: Path
    label: int
    method: str
    video: str
    split: str

    @property
    def is_video(self) -> bool:
        """Whether it holds frames to choose from."""
        return self.path.suffix.lower() in VIDEO_SUFFIXES


def find_sources(root: Path, compression: str, methods: list[str] | None = None) -> list[Source]:
    """All videos and photos below `root`, sorted by method and id; only those methods' fakes where they are named.

    UserError, naming the folder or file, where `root` has neither layout, lacks what was asked for, or where a video
    is in no split or its donor is in another one.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    is_tree = any((root / top).is_dir() for top in (ORIGINAL.parts[0], MANIPULATED))
    found = _find_in_tree(root, compression, methods) if is_tree else _find_in_folder(root, methods)
    found.sort(key=lambda source: (source.label, source.method, source.video))
    for one, other in pairwise(found):
        if (one.method, one.video) == (other.method, other.video):
            raise UserError(f"{one.path} and {other.path} would have the same id {one.method}/{one.video}")
    return found


def _find_in_tree(root: Path, compression: str, methods: list[str] | None) -> list[Source]:
    split_of = read_splits(root)
    found = _videos(root / ORIGINAL / compression / "videos", "real", split_of)
    top = root / MANIPULATED
    present = sorted(path.name for path in top.glob("[!.]*") if path.is_dir())
    _check_methods(methods, set(present), top)
    for method in present if methods is None else methods:
        found += _videos(top / method / compression / "videos", method, split_of)
    return found


def _videos(folder: Path, method: str, split_of: dict[str, str]) -> list[Source]:
    paths = files_below(folder, VIDEO_SUFFIXES)
    if not paths:
        raise UserError(f"{folder}: no videos there (--compression and --methods say which are wanted)")
    found = []
    for path in paths:
        ids = path.stem.split("_")
        splits = {split_of.get(video_id) for video_id in ids}
        if len(splits) != 1 or None in splits:
            places = ", ".join(f"{video_id} in {split_of.get(video_id) or 'none'}" for video_id in ids)
            raise UserError(f"{path}: its ids are not in one split ({places})")
        found.append(Source(path, int(method != "real"), method, path.stem, split_of[ids[0]]))
    return found


def read_splits(root: Path) -> dict[str, str]:
    """The split of each id: from splits/*.json of the tree, else FF++'s official ones."""
    files = {split: root / "splits" / f"{split}.json" for split in SPLITS}
    if not any(file.exists() for file in files.values()):
        if (root / "forge.json").is_file():
            raise UserError(f"{root}: an unfinished forgery set (no splits/ yet); run forge.py again to finish it")
        with OFFICIAL_SPLITS.open(newline="") as lines:
            rows = csv.DictReader(line for line in lines if line[0] != "#")
            return {video_id: row["split"] for row in rows for video_id in (row["a"], row["b"])}
    split_of: dict[str, str] = {}
    for split, file in files.items():
        try:
            ids = {str(video_id) for target, source in json.loads(file.read_text()) for video_id in (target, source)}
        except OSError as error:
            raise UserError(f"cannot read {file}: {error.strerror or error}") from error
        except (ValueError, TypeError):
            raise UserError(f"{file}: not a list of [target, source] pairs") from None
        twice = sorted(ids & split_of.keys())
        if twice:
            raise UserError(f"{file}: id {twice[0]} is in {split_of[twice[0]]} too (wanted each id in one split)")
        split_of |= dict.fromkeys(ids, split)
    return split_of


def _find_in_folder(root: Path, methods: list[str] | None) -> list[Source]:
    splits = [split for split in SPLITS if (root / split).is_dir()]
    found = []
    for split in splits or [""]:
        for label, name in enumerate(CLASSES):
            folder = root / split / name
            for path in files_below(folder, IMAGE_SUFFIXES | VIDEO_SUFFIXES):
                method, identity = method_and_identity(path.relative_to(folder), label, root)
                video = "__".join(identity.with_suffix("").parts)
                found.append(Source(path, label, method, video, split or _split_of(group_of(path.stem))))
    for label, name in enumerate(CLASSES):
        if all(source.label != label for source in found):
            raise UserError(f"{root}: no {name} videos or photos (wanted FF++'s folders, or real/ and fake/)")
    present = {source.method for source in found if source.label}
    _check_methods(methods, present, root)
    chosen = present if methods is None else methods
    return _told_apart([source for source in found if not source.label or source.method in chosen])


def _check_methods(wanted: list[str] | None, present: set[str], folder: Path) -> None:
    """UserError that names the first method that was asked for and is not there."""
    for method in wanted or []:
        if method not in present:
            raise UserError(f"{folder}: has no method {method!r} (found {', '.join(sorted(present)) or 'none'})")


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
