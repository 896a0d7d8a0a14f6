"""Index files of other projects: which frames of which videos to take, with labels and splits.

DeepfakeBench's JSON: {data set: {label: {split: {compression: {video: {"label": ..., "frames": [paths]}}}}}}; the level
of the compression is optional; labels.py has the labels that are known. RECCE's `<split>_<compression>.pickle`: a list
of (path, label), written by torch.save; the file's name holds the split.

A path ends in <video>/<frame number>.png. Its beginning is that of another machine, so ever shorter ends of it are
looked for below the given folder: first as a folder of frames, then as the video itself (.../frames/<video>/007.png as
.../videos/<video>.mp4 or .../<video>.mp4). What a link leads to outside of the folder is not taken.

Some of DeepfakeBench's index files (Celeb-DF, DFDCP, UADFV) list a video in several splits. Of the wanted splits, test
goes before val and val before train, so that no tested video is trained on. Several index files may list the same
video with the same frames, as FF-DF.json and FF-FS.json list the same reals.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ..common.cli import UserError
from ..common.files import read_bytes
from ..common.saved import load_saved
from ..common.texts import read_json
from ..dataset.manifest import CLASSES, SPLITS
from ..media.file_kinds import VIDEO_SUFFIXES
from .labels import Labels, advice, label_of
from .source import COMPRESSIONS, Selection, Source


class Entry(NamedTuple):
    """The frames of one video that an index file lists; `name` is the label's name there."""

    split: str
    label: int
    name: str
    frames: tuple[PurePosixPath, ...]


def list_sources(root: Path, wanted: Selection) -> list[Source]:
    """The sources that the index files list, of the wanted compression and splits, each in one split.

    UserError that names file and video where a path, label or split is wrong, or two listings contradict each other.
    """
    _entries_of.cache_clear()
    listed: list[tuple[Source, Path]] = []
    for file in wanted.indices:
        entries = _recce(file) if _is_pickle(file) else _deepfakebench(file, wanted.compression, wanted.labels)
        listed += [(_source(entry, root, file), file) for entry in entries if entry.frames]
    if not listed:
        raise UserError(f"{wanted.indices[0]}: names no frames of compression {wanted.compression}")
    listed = [(source, file) for source, file in listed if wanted.splits is None or source.split in wanted.splits]
    _check_contradictions(listed)
    found = _in_one_split([source for source, _ in listed])
    _check_donors(found)
    return found


def _is_pickle(file: Path) -> bool:
    """Whether a file begins as those of torch.save and pickle do; its name may be any."""
    return read_bytes(file, 2).startswith((b"PK", b"\x80"))


def _check_contradictions(listed: list[tuple[Source, Path]]) -> None:
    """UserError where a video is listed both as real and as fake, or with different frames in one split."""
    first: dict[Path, tuple[Source, Path]] = {}
    frames: dict[tuple[Path, str, str], tuple[Source, Path]] = {}
    for source, file in listed:
        before, where = first.setdefault(source.path, (source, file))
        if before.label != source.label:
            classes = f"{CLASSES[before.label]} in {where}, {CLASSES[source.label]} in {file}"
            raise UserError(f"{source.path}: listed twice with different labels ({classes})")
        before, where = frames.setdefault((source.path, source.method, source.split), (source, file))
        if before.frames != source.frames:
            raise UserError(
                f"{source.path}: {where} and {file} list different frames of it (wanted one listing, or equal ones)"
            )


def _in_one_split(sources: list[Source]) -> list[Source]:
    """Each source once, in the last split that lists it: test goes before val, and val before train."""
    last: dict[tuple[Path, str], Source] = {}
    for source in sources:
        key = (source.path, source.method)
        last[key] = max(last.get(key, source), source, key=lambda one: SPLITS.index(one.split))
    left_out = sum(source.split != last[source.path, source.method].split for source in sources)
    if left_out:
        print(
            f"{left_out} entries are left out, since a later split lists the same video (test goes before val, val "
            "before train)",
            file=sys.stderr,
        )
    return list(last.values())


def _check_donors(sources: list[Source]) -> None:
    """UserError where a fake's name <target>_<source> holds the id of a real video of another split."""
    split_of = {source.video: source.split for source in sources if not source.label}
    for source in sources:
        for part in source.video.split("_") if source.label else ():
            if split_of.get(part, source.split) != source.split:
                raise UserError(f"{source.path}: is in {source.split}, but its {part} in {split_of[part]}")


def _deepfakebench(file: Path, compression: str, given: Labels) -> list[Entry]:
    entries = []
    for keys, video in _videos(read_json(file), (), file):
        where = f"{file}: {'/'.join(keys)}"
        others = [key for key in keys if key in COMPRESSIONS and key != compression]
        split = next((key for key in keys if key in SPLITS), None)
        if others:
            continue
        if split is None:
            raise UserError(f"{where} is in no split (wanted a key {', '.join(SPLITS)} above it)")
        said, shown = video["label"], json.dumps(video["label"])[:100]
        label = label_of(said, keys[0], given)
        if label is None:
            raise UserError(f"{where}: label {shown} is not known to mean real or fake ({advice(said)})")
        for key in keys[1:-1]:
            if label_of(key, keys[0], {}) == 1 - label:
                raise UserError(f"{where}: label {shown} means {CLASSES[label]}, but it is listed under {key!r}")
        name = said if isinstance(said, str) and not said.isdigit() else CLASSES[label]
        entries.append(Entry(split, label, name, _paths(video["frames"], file)))
    return entries


def _videos(tree: Any, keys: tuple[str, ...], file: Path) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """The objects with label and frames, each with the keys that lead to it."""
    where = f"{file}: {'/'.join(keys)[:200]}"
    if not isinstance(tree, dict):
        raise UserError(f"{where}: a {type(tree).__name__} (wanted an object with label and frames)")
    if "frames" in tree and not isinstance(tree["frames"], dict):
        if "label" not in tree or not isinstance(tree["frames"], list):
            raise UserError(f"{where}: wanted an object with label and a list of frames")
        yield keys, tree
        return
    for key, value in tree.items():
        yield from _videos(value, (*keys, key), file)


def _recce(file: Path) -> list[Entry]:
    split = next((split for split in SPLITS if file.name.lower().startswith(split)), None)
    if split is None:
        raise UserError(f"{file}: its name does not begin with a split ({', '.join(SPLITS)})")
    rows = load_saved(file)
    try:
        listed = [(path, label) for path, label in rows]
    except (TypeError, ValueError):
        raise UserError(f"{file}: a {type(rows).__name__} (wanted a list of (path, 0 or 1))") from None
    for number, (_, label) in enumerate(listed, start=1):
        if type(label) is not int or label not in (0, 1):
            raise UserError(f"{file}, entry {number}: label {str(label)[:100]} (wanted 0 for real or 1 for fake)")
    videos: dict[tuple[PurePosixPath, int], list[PurePosixPath]] = {}
    for path, (_, label) in zip(_paths([path for path, _ in listed], file), listed, strict=True):
        videos.setdefault((path.parent, label), []).append(path)
    return [Entry(split, label, "fake" if label else "real", tuple(paths)) for (_, label), paths in videos.items()]


def _paths(texts: list[Any], file: Path) -> tuple[PurePosixPath, ...]:
    paths = []
    for text in texts:
        path = PurePosixPath(text.replace("\\", "/")) if isinstance(text, str) else PurePosixPath()
        if len(path.parts) < 2 or ".." in path.parts or frame_number(path) is None:
            raise UserError(
                f"{file}: {str(text)[:300]!r} (wanted paths that end in a video's folder and a frame's number)"
            )
        paths.append(path)
    return tuple(paths)


def frame_number(path: Path | PurePosixPath) -> int | None:
    """The number at the end of a file's stem; None without a number, or for one of more than 18 digits."""
    digits = re.search(r"\d+$", path.stem)
    return int(digits[0]) if digits and len(digits[0]) <= 18 else None


def _source(entry: Entry, root: Path, file: Path) -> Source:
    folder = entry.frames[0].parent
    for path in entry.frames:
        if path.parent != folder:
            raise UserError(f"{file}: frames of one video in {folder} and {path.parent} (wanted one folder)")
    numbers = tuple(sorted({number for path in entry.frames if (number := frame_number(path)) is not None}))
    method = _method(folder, entry.name) if entry.label else "real"
    return Source(_found(folder, root), entry.label, method, folder.name, entry.split, numbers)


def _method(folder: PurePosixPath, name: str) -> str:
    """The forgery's name: that of FF++'s folder where the path has one, else the label's."""
    parts = folder.parts
    return parts[parts.index("manipulated_sequences") + 1] if "manipulated_sequences" in parts[:-2] else name


def _found(folder: PurePosixPath, root: Path) -> Path:
    """The folder of frames or the video below `root` that `folder` stands for; if missing, the path to report."""
    parts = [part for part in folder.parts if part != "/"]
    for start in range(len(parts)):
        if len(parts) - start > 2 and parts[start] not in _entries_of(root):
            continue  # quick for an index of a million videos that are missing
        here = root.joinpath(*parts[start:])
        if _entries_of(here.parent).get(here.name) == "folder":
            _check_inside(here, root)
            return here
        above = here.parent.parent if here.parent != root else root
        for parent in (above / "videos", above, here.parent):
            present = _entries_of(parent)
            for suffix in sorted(VIDEO_SUFFIXES):
                if present.get(f"{here.name}{suffix}") == "file":
                    _check_inside(parent / f"{here.name}{suffix}", root)
                    return parent / f"{here.name}{suffix}"
    return root.joinpath(*parts)


@lru_cache(maxsize=1000)
def _entries_of(folder: Path) -> dict[str, str]:
    """The names in a folder, each "file" or "folder"; none if it is missing. An index asks for the same ones often."""
    try:
        return {entry.name: "folder" if entry.is_dir() else "file" for entry in os.scandir(folder)}
    except (OSError, ValueError):  # missing, no folder, or no possible name
        return {}


def _check_inside(path: Path, root: Path) -> None:
    """UserError if a link leads out of `root`, on the way to `path` or from a frame in it."""
    for inside in _with_links(path):  # what the path leads to is read after it was checked
        if not Path(os.path.realpath(inside)).is_relative_to(os.path.realpath(root)):
            raise UserError(f"{inside}: a link that leads out of {root} (give the folder that it leads to)")


def _with_links(path: Path) -> Iterator[Path]:
    """A path, and the links in it if it is a folder."""
    yield path
    if path.is_dir():
        yield from (Path(entry) for entry in os.scandir(path) if entry.is_symlink())
