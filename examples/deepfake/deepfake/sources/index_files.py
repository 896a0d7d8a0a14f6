"""Index files of other projects: which frames of which videos to take, with labels and splits.

DeepfakeBench's JSON: {data set: {label: {split: {compression: {video: {"label": ..., "frames": [paths]}}}}}}; the level
of the compression is optional; a label that ends in "real" is real. RECCE's `<split>_<compression>.pickle`: a list of
(path, label), written by torch.save; the file's name holds the split.

A path ends in <video>/<frame number>.png. Its beginning is that of another machine, so ever shorter ends of it are
looked for below the given folder: first as a folder of frames, then as the video itself (.../frames/<video>/007.png as
.../videos/<video>.mp4 or .../<video>.mp4).

Some of DeepfakeBench's index files (Celeb-DF, DFDCP, UADFV) list a video in several splits. Of the wanted splits, test
goes before val and val before train, so that no tested video is trained on.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ..common.cli import UserError
from ..common.files import read_json
from ..dataset.manifest import SPLITS
from ..media.video import VIDEO_SUFFIXES
from .source import COMPRESSIONS, Selection, Source


class Entry(NamedTuple):
    """The frames of one video that an index file lists; `name` is the label's name there."""

    split: str
    label: int
    name: str
    frames: tuple[PurePosixPath, ...]


def list_sources(root: Path, wanted: Selection) -> list[Source]:
    """The sources that the index files list, of the wanted compression and splits, each in one split.

    UserError that names file and video where a path, label or split is wrong.
    """
    listed: list[Source] = []
    for file in wanted.indices:
        entries = _deepfakebench(file, wanted.compression) if file.suffix == ".json" else _recce(file)
        listed += [_source(entry, root, file) for entry in entries if entry.frames]
    if not listed:
        raise UserError(f"{wanted.indices[0]}: names no frames of compression {wanted.compression}")
    found = _in_one_split([source for source in listed if wanted.splits is None or source.split in wanted.splits])
    _check_donors(found)
    return found


def _in_one_split(sources: list[Source]) -> list[Source]:
    """The sources without those that a later split lists too: test goes before val, and val before train."""
    last: dict[tuple[Path, str], str] = {}
    for source in sources:
        key = (source.path, source.method)
        last[key] = max(last.get(key, source.split), source.split, key=SPLITS.index)
    kept = [source for source in sources if source.split == last[source.path, source.method]]
    if len(kept) < len(sources):
        print(
            f"{len(sources) - len(kept)} entries are left out, since a later split lists the same video (test goes "
            "before val, val before train)",
            file=sys.stderr,
        )
    return kept


def _check_donors(sources: list[Source]) -> None:
    """UserError where a fake's name <target>_<source> holds the id of a real video of another split."""
    split_of = {source.video: source.split for source in sources if not source.label}
    for source in sources:
        for part in source.video.split("_") if source.label else ():
            if split_of.get(part, source.split) != source.split:
                raise UserError(f"{source.path}: is in {source.split}, but its {part} in {split_of[part]}")


def _deepfakebench(file: Path, compression: str) -> list[Entry]:
    entries = []
    for keys, video in _videos(read_json(file), ()):
        others = [key for key in keys if key in COMPRESSIONS and key != compression]
        split = next((key for key in keys if key in SPLITS), None)
        if others:
            continue
        if split is None:
            raise UserError(f"{file}: {'/'.join(keys)} is in no split (wanted a key {', '.join(SPLITS)} above it)")
        name = str(video["label"])
        entries.append(Entry(split, int(not name.lower().endswith("real")), name, _paths(video["frames"], file)))
    return entries


def _videos(tree: Any, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """The objects with label and frames, each with the keys that lead to it."""
    if isinstance(tree, dict):
        if isinstance(tree.get("frames"), list) and "label" in tree:
            yield keys, tree
        else:
            for key, value in tree.items():
                yield from _videos(value, (*keys, key))


def _recce(file: Path) -> list[Entry]:
    import torch  # not at the top: the worker processes import this module and need no torch

    split = next((split for split in SPLITS if file.name.startswith(split)), None)
    if split is None:
        raise UserError(f"{file}: its name does not begin with a split ({', '.join(SPLITS)})")
    try:
        rows = torch.load(file, weights_only=True)  # plain values only: a pickle must not run code
        listed = [(str(path), {0: 0, 1: 1}[int(label)]) for path, label in rows]
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from error
    except Exception as error:
        kind = type(error).__name__
        raise UserError(f"{file}: not a list of (path, 0 or 1) that torch.save wrote ({kind})") from None
    videos: dict[tuple[PurePosixPath, int], list[PurePosixPath]] = {}
    for path, (_, label) in zip(_paths([path for path, _ in listed], file), listed, strict=True):
        videos.setdefault((path.parent, label), []).append(path)
    return [Entry(split, label, "fake" if label else "real", tuple(paths)) for (_, label), paths in videos.items()]


def _paths(texts: list[Any], file: Path) -> tuple[PurePosixPath, ...]:
    paths = tuple(PurePosixPath(str(text).replace("\\", "/")) for text in texts)
    for path in paths:
        if len(path.parts) < 2 or ".." in path.parts or frame_number(path) is None:
            raise UserError(f"{file}: {str(path)!r} (wanted paths that end in a video's folder and a frame's number)")
    return paths


def frame_number(path: Path | PurePosixPath) -> int | None:
    """The number at the end of a file's stem."""
    digits = re.search(r"\d+$", path.stem)
    return int(digits[0]) if digits else None


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
        here = root.joinpath(*parts[start:])
        if here.is_dir():
            return here
        above = here.parent.parent if here.parent != root else root
        for parent in (above / "videos", above, here.parent):
            for suffix in sorted(VIDEO_SUFFIXES):
                if (video := parent / f"{here.name}{suffix}").is_file():
                    return video
    return root.joinpath(*parts)
