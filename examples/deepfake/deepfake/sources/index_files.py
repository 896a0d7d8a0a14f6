"""Index files of other benches, read as a list of which frames of which videos to take, with labels and splits.

DeepfakeBench's JSON: {data set: {label: {split: {compression: {video: {"label": ..., "frames": [paths]}}}}}}, where the
compression may lack; a label that ends in "real" is real. RECCE's `<split>_<compression>.pickle`: a list of (path,
label), written by torch.save; the split is in the file's name. A path ends in <video>/<frame number>.png; how it begins
depends on whose disk it was, so it is looked for below the given folder, by ever shorter ends: first as a folder of
frames, then as the video itself (.../frames/<video>/007.png as .../videos/<video>.mp4 or .../<video>.mp4).

Some of DeepfakeBench's indices (Celeb-DF's, DFDCP's, UADFV's) list a video in several splits. Of the splits that are
asked for, test goes before val and val before train, so that nothing is trained on that is tested.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ..common.cli import UserError
from ..dataset.manifest import SPLITS
from ..media.video import VIDEO_SUFFIXES
from .source import Source, check_donors

COMPRESSIONS = ("raw", "c23", "c40")


class Entry(NamedTuple):
    """The frames of one video that an index asks for."""

    split: str
    label: int
    name: str  # of the label, as the index calls it
    frames: tuple[PurePosixPath, ...]


def read_indices(
    files: tuple[Path, ...], root: Path, compression: str, splits: tuple[str, ...] | None = None
) -> list[Source]:
    """The sources that index files ask for, of one compression and these splits (None: all), each in one split.

    UserError, naming file and video, on what is wrong.
    """
    listed: list[Source] = []
    for file in files:
        entries = _deepfakebench(file, compression) if file.suffix == ".json" else _recce(file)
        listed += [_source(entry, root, file) for entry in entries if entry.frames]
    if not listed:
        raise UserError(f"{files[0]}: names no frames of compression {compression}")
    found = _in_one_split([source for source in listed if splits is None or source.split in splits])
    counts = Counter((source.method, source.video) for source in found)
    for source in found:
        if counts[source.method, source.video] > 1:
            raise UserError(
                f"{source.path}: listed {counts[source.method, source.video]} times, here in {source.split} (wanted "
                "each video once in a split, and no other of its name)"
            )
    check_donors(found)
    return found


def _in_one_split(sources: list[Source]) -> list[Source]:
    """Without what is listed in a later split too: test goes before val, and val before train."""
    last: dict[tuple[Path, str], str] = {}
    for source in sources:
        key = (source.path, source.method)
        last[key] = max(last.get(key, source.split), source.split, key=SPLITS.index)
    kept = [source for source in sources if source.split == last[source.path, source.method]]
    if len(kept) < len(sources):
        print(
            f"{len(sources) - len(kept)} listings of videos that the index has in a later split too are left out "
            "(test goes before val, val before train)",
            file=sys.stderr,
        )
    return kept


def _deepfakebench(file: Path, compression: str) -> list[Entry]:
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from error
    except (ValueError, RecursionError):
        raise UserError(f"{file}: not JSON") from None
    entries = []
    for keys, video in _videos(tree, ()):
        others = [key for key in keys if key in COMPRESSIONS and key != compression]
        split = next((key for key in keys if key in SPLITS), None)
        if others:
            continue
        if split is None:
            raise UserError(f"{file}: {'/'.join(keys)} is in no split (wanted {', '.join(SPLITS)} above it)")
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
    import torch  # here: the workers that prepare need none

    split = next((split for split in SPLITS if file.name.startswith(split)), None)
    if split is None:
        raise UserError(f"{file}: its name does not begin with a split ({', '.join(SPLITS)})")
    try:
        rows = torch.load(file, weights_only=True)  # plain values only: a pickle from elsewhere may not run code
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
    """The forgery's name: FF++'s folder says it best."""
    parts = folder.parts
    return parts[parts.index("manipulated_sequences") + 1] if "manipulated_sequences" in parts[:-2] else name


def _found(folder: PurePosixPath, root: Path) -> Path:
    """Where the frames of `folder`, or the video they are of, lie below `root`; where they are not, a path to tell."""
    parts = [part for part in folder.parts if part != "/"]
    for start in range(len(parts)):
        here = root.joinpath(*parts[start:])
        if here.is_dir():
            return here
        above = here.parent.parent if here.parent != root else root
        for place in (above / "videos", above, here.parent):
            for suffix in sorted(VIDEO_SUFFIXES):
                if (video := place / f"{here.name}{suffix}").is_file():
                    return video
    return root.joinpath(*parts)
