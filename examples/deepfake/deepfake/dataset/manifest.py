"""Lists the images of a data folder, from its manifest.jsonl or its folders real/ and fake/, and checks the list.

A manifest has one JSON object per line. `path` (relative to the folder), `label` (0 real, 1 fake) and `split` (train,
val or test) are required; `method` ("real" for reals) and `video` (an id; a still photo is its own video) are optional.
`person`, a text, says who is shown: the intervals of reproduce.py's report are then by person. `landmarks`, a list of
[x, y] in pixels of the image in one of the orders of landmarks.py, is read by explain.py --focus. prepare.py writes
more: `box`, if it is not null, says that the image was cut around this box of a face; frame, score, faces, detector and
sha256 are for people to read. A line with `problem` and without `path` reports a video or frame that yielded no image,
and why.

A folder without a manifest holds real/ and fake/, either directly or under train/, val/ (or valid/, validation/) and
test/. A folder inside fake/ names the method. Images in a deeper folder (real/007/, fake/swap/007_012/) are the frames
of one video. Without split folders, the split of an image comes from a hash of its group: the name of the first such
folder, or else of the file, up to the first "_" or "-". So `007_smiling.jpg`, the images in `007/` and the fake
`007_012.png` are always in the same split, on every machine.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..common.cli import UserError
from ..common.files import read_bytes
from ..common.texts import decode, numbered_lines, parse_json
from ..media.found_files import Found, check_readable, find_media, report_left_out

SPLITS = ("train", "val", "test")
CLASSES = ("real", "fake")  # by label
MANIFEST = "manifest.jsonl"
LEADS_OUT = f"a link that leads out of the folder with the {MANIFEST} (the whole folder may be a link)"
SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""The split of each name of a folder."""
FARTHEST = 1e5  # pixels from an image's corner to a landmark
SHARE_TRAIN, SHARE_VAL = 0.7, 0.15  # of the groups, if the folder itself has no splits


@dataclass(frozen=True)
class Record:
    """One image of a data folder."""

    path: str
    label: int
    split: str
    method: str
    video: str
    has_box: bool = False  # the image is cut around the box of a face
    landmarks: np.ndarray | None = field(default=None, compare=False)  # (P, 2), in pixels of the image


def list_images(root: Path) -> tuple[list[Record], str]:
    """The records of all splits in `root`, and the sha256 of the list.

    Raises UserError if the folder or its manifest is not as this module's docstring describes.
    """
    if not os.path.exists(root):
        raise UserError(f'{root}: no such folder (wanted "demo", or a folder with real/ and fake/ or a {MANIFEST})')
    if not root.is_dir():
        raise UserError(f"{root}: not a folder (wanted the folder that holds real/ and fake/ or a {MANIFEST})")
    if (root / MANIFEST).is_file():
        content = read_bytes(root / MANIFEST)
        return _read_manifest(root / MANIFEST, content), hashlib.sha256(content).hexdigest()
    records = list(_walk(root))
    if not records:
        raise UserError(f"{root}: no images in it (wanted real/ and fake/ with photos, such as JPEG or PNG files)")
    digest = hashlib.sha256()
    for record in records:
        try:
            size = (root / record.path).stat().st_size
        except OSError as error:
            raise UserError(f"{root / record.path}: cannot be read ({error.strerror})") from error
        digest.update(os.fsencode(f"{record.path}\0{record.label}\0{record.split}\0{size}\n"))
    return records, digest.hexdigest()


def select(records: list[Record], split: str, root: Path) -> list[Record]:
    """The records of one split. UserError unless the split holds both classes."""
    chosen = [record for record in records if record.split == split]
    if not chosen:
        counts = Counter(record.split for record in records)
        found = ", ".join(f"{counts[name]} {name}" for name in SPLITS if counts[name])
        raise UserError(f"{root}: the {split} split is empty (found {found} images){_advice(root)}")
    labels = {record.label for record in chosen}
    if len(labels) == 1:
        present, missing = CLASSES[labels.pop()], CLASSES[1 - chosen[0].label]
        raise UserError(
            f"{root}: the {split} split has {len(chosen)} {present} images and no {missing} one{_advice(root)}"
        )
    return chosen


def _advice(root: Path) -> str:
    if (root / MANIFEST).is_file() or any((root / split).is_dir() for split in SPLITS):
        return ""
    names = 'folder or file names up to the first "_" or "-"'
    return f"; splits come from {names}: use train/, val/, test/ folders or a {MANIFEST}"


def _walk(root: Path) -> Iterator[Record]:
    """The records of a folder without a manifest, in the order of their paths."""
    for path, label, split, method, identity in files_of_classes(root, ("image",)):
        video = f"{method}/{(folder_of_frames(identity) or identity).as_posix()}"
        yield Record(path.relative_to(root).as_posix(), label, split, method, video)


def files_of_classes(root: Path, kinds: Collection[str]) -> Iterator[tuple[Path, int, str, str, Path]]:
    """(path, label, split, method, path inside the class or method) of each file of these kinds in real/ and fake/.

    UserError where a file or folder can't be read. A line on stderr says what was left out, there and beside.
    """
    split_of = _split_folders(root)
    found = Found()
    _leave_out_others(root, split_of or CLASSES, found)
    for part in split_of or [""]:
        if part:
            _leave_out_others(root / part, CLASSES, found)
        for label, name in enumerate(CLASSES):
            folder = root / part / name
            inside = find_media(folder, kinds)
            found.add(inside)
            for path in inside.files:
                method, identity = _method_and_identity(path.relative_to(folder), label, root)
                group = group_of(identity.with_suffix("").parts[0])  # of the first folder, else of the file's name
                yield path, label, split_of[part] if part else split_of_group(group), method, identity
    check_readable(found)
    report_left_out(root, found)


def _split_folders(root: Path) -> dict[str, str]:
    """The split of each folder of a split; none where the classes are not inside splits."""
    present = [name for name in SPLIT_FOLDERS if (root / name).is_dir()]
    direct = [name for name in CLASSES if (root / name).is_dir()]
    if present and direct:
        raise UserError(
            f"{root}: holds both {direct[0]}/ and {present[0]}/ (wanted classes inside splits, or no splits)"
        )
    split_of = {name: SPLIT_FOLDERS[name] for name in present}
    for split in SPLITS:
        same = [name for name in present if split_of[name] == split]
        if len(same) > 1:
            raise UserError(f"{root}: holds both {same[0]}/ and {same[1]}/ (wanted one folder for {split})")
    return split_of


def _leave_out_others(folder: Path, read: Collection[str], found: Found) -> None:
    """Count what is beside the folders that are read."""
    beside = f"beside {' and '.join(f'{name}/' for name in read)}"
    try:
        inside = sorted(folder.iterdir())
    except OSError as error:
        found.unreadable.append(f"{folder}: cannot be read ({error.strerror})")
        return
    for path in inside:
        if path.name not in read:
            found.leave_out("hidden" if path.name[0] == "." else beside, path)


def _method_and_identity(inside: Path, label: int, root: Path) -> tuple[str, Path]:
    """The forgery method ("real" for reals) of a path inside real/ or fake/, and the rest of the path."""
    if not label or len(inside.parts) == 1:
        return CLASSES[label], inside
    method = inside.parts[0]
    if method == CLASSES[0]:
        raise UserError(f'{root}: a folder real/ inside fake/ (wanted the forgery\'s name, which "real" is not)')
    return method, inside.relative_to(method)


def folder_of_frames(identity: Path) -> Path | None:
    """The folder whose images are the frames of one video; None for an image outside such a folder."""
    return identity.parent if len(identity.parts) > 1 else None


def group_of(name: str) -> str:
    """The part of a name that identifies the person: up to the first "_" or "-"."""
    return re.split("[_-]", name, maxsplit=1)[0] or name


def hashed(text: str) -> float:
    """A number in [0, 1) computed from a text, the same on every machine."""
    return int.from_bytes(hashlib.sha256(os.fsencode(text)).digest()[:8], "big") / 2**64


def split_of_group(group: str) -> str:
    """The split of a group, if nothing else determines it: 70, 15 and 15 % of the groups."""
    number = hashed(group)
    return "train" if number < SHARE_TRAIN else "val" if number < SHARE_TRAIN + SHARE_VAL else "test"


def check_links(root: Path, records: list[Record]) -> None:
    """UserError if an image of a manifest is reached through a link that leads out of the folder, naming it.

    A folder without a manifest may hold such links: whoever made it has chosen what is in it.
    """
    top = os.path.realpath(root)
    for folder in {os.path.dirname(record.path) for record in records}:
        if not _is_inside(os.path.realpath(root / folder), top):
            raise UserError(f"{root / folder}: {LEADS_OUT}")
    for record in records:
        path = root / record.path
        if os.path.islink(path) and not _is_inside(os.path.realpath(path), top):
            raise UserError(f"{path}: {LEADS_OUT}")


def _is_inside(path: str, top: str) -> bool:
    return os.path.commonpath([path, top]) == top


def _read_manifest(file: Path, content: bytes) -> list[Record]:
    records: list[Record] = []
    line_of: dict[str, int] = {}
    split_of: dict[str, tuple[str, int]] = {}
    try:
        text = decode(content)
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{file}, line {number}: not a text in UTF-8 (wanted one JSON object per line)") from None
    for number, line in numbered_lines(text):
        parsed = _parse(line, f"{file}, line {number}")
        if parsed is None:
            continue
        record, video_id = parsed
        if record.path in line_of:
            raise UserError(f"{file}, line {number}: {record.path!r} is already on line {line_of[record.path]}")
        line_of[record.path] = number
        split, first = split_of.setdefault(video_id, (record.split, number))
        if split != record.split:
            raise UserError(
                f"{file}, line {number}: video {video_id!r} is in {record.split}, but in {split} on line {first} "
                "(wanted each video in one split)"
            )
        records.append(record)
    if not records:
        raise UserError(f"{file}: lists no images")
    return records


def _parse(line: str, where: str) -> tuple[Record, str] | None:
    """A manifest line as a record, and its video id (the path, for a still photo); None for a line with a problem."""
    try:
        row = parse_json(line)
    except ValueError as error:
        raise UserError(f"{where}: not JSON (wanted one JSON object per line): {error}") from None
    if not isinstance(row, dict):
        raise UserError(f"{where}: a JSON {type(row).__name__} (wanted an object)")
    if "problem" in row and "path" not in row:
        return None
    path = os.path.normpath(_text(row, "path", where))
    if os.path.isabs(path) or path.split(os.sep)[0] == "..":
        raise UserError(f"{where}: path {row['path'][:200]!r} leads out of the folder (wanted a path relative to it)")
    label = row.get("label")
    if type(label) is not int or label not in (0, 1):
        raise UserError(f"{where}: label {repr(label)[:100]} (wanted 0 for real or 1 for fake)")
    if row.get("split") not in SPLITS:
        raise UserError(f"{where}: split {repr(row.get('split'))[:100]} (wanted train, val or test)")
    method = _text(row, "method", where, default=CLASSES[label])
    if (method == "real") != (label == 0):
        raise UserError(
            f'{where}: method {method[:100]!r} with label {label} (wanted "real" for 0, another name for 1)'
        )
    video = _text(row, "video", where, default=path)
    _text(row, "person", where, default="")  # the report reads it
    return Record(
        path, label, row["split"], method, f"{method}/{video}", _has_box(row, where), _landmarks(row, where)
    ), video


def _has_box(row: dict[str, Any], where: str) -> bool:
    """Whether a line says around which box of a face the image was cut."""
    box = row.get("box")
    if box is None:
        return False
    numbers = isinstance(box, list) and len(box) == 4 and all(type(side) in (int, float) for side in box)
    if not numbers or not (box[0] < box[2] and box[1] < box[3]):
        raise UserError(f"{where}: box {repr(box)[:100]} (wanted [x0, y0, x1, y1] with x0 < x1 and y0 < y1, or null)")
    return True


def _landmarks(row: dict[str, Any], where: str) -> np.ndarray | None:
    """The points (P, 2) of a line, None if it has none."""
    points = row.get("landmarks")
    if points is None:
        return None
    pairs = isinstance(points, list) and all(isinstance(point, list) and len(point) == 2 for point in points)
    if not pairs or not all(type(value) in (int, float) and abs(value) <= FARTHEST for xy in points for value in xy):
        raise UserError(f"{where}: landmarks {repr(points)[:100]} (wanted [[x, y], ...] in pixels, or null)")
    return np.array(points, dtype=np.float64).reshape(-1, 2)


def _text(row: dict[str, Any], key: str, where: str, default: str | None = None) -> str:
    value = row.get(key)
    if value is None and default is not None:
        return default
    if not isinstance(value, str) or not value or "\0" in value:
        raise UserError(f"{where}: {key} {repr(value)[:200]} (wanted a text)")
    return value
