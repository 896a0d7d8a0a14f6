"""FaceForensics++'s folders and its official split: every video that it should hold, file present or missing.

original_sequences/youtube/<compression>/videos/NNN.mp4 and
manipulated_sequences/<method>/<compression>/videos/<target>_<source>.mp4, compression raw, c23 or c40. Of each pair
a, b of a split, a_b and b_a are fakes. The splits are read from splits/*.json in the tree, in FF++'s own format (lists
of [target, source] pairs). Without them, or where they are the same, FF++'s official splits count (ffpp_splits.csv),
with the four methods of the published results: folders of other methods are left out, unless they are named.
Where forge.py made the tree, identities.json names the person of each id.
"""

from __future__ import annotations

import csv
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..common.cli import UserError, to_stderr_once
from ..common.texts import parse_json, read_json, read_text
from ..dataset.manifest import SPLITS
from ..media.found_files import check_readable, find_media, report_left_out
from .source import Selection, Source, check_methods

ORIGINAL = Path("original_sequences", "youtube")
MANIPULATED = Path("manipulated_sequences")
IDENTITIES = "identities.json"
METHODS = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures")
OFFICIAL_SPLITS = Path(__file__).with_name("ffpp_splits.csv")
MOST_MISSING = 0.01  # of FF++'s 700 test videos: so few can change ACC by about one point at most

Pairs = dict[str, list[tuple[str, str]]]
"""[target, source] ids by split."""
Video = tuple[str, str]  # method and id


def is_tree(root: Path) -> bool:
    """Whether a folder has FF++'s layout."""
    return any((root / top).is_dir() for top in (ORIGINAL.parts[0], MANIPULATED))


def list_sources(root: Path, wanted: Selection) -> list[Source]:
    """The videos that the splits name, and other videos beside them. UserError where a fake's ids are in two splits.

    Where all methods are wanted: FF++'s four under the official splits; under the tree's own splits, the folders in it.
    """
    own, pairs = read_own_pairs(root), official_pairs()
    official = own is None or _splits(own) == _splits(pairs)
    pairs = pairs if own is None else own
    present = _method_folders(root)
    methods = wanted.methods or (METHODS if official else sorted(present))
    check_methods(methods, present | (set(METHODS) if official else set()), root / MANIPULATED)
    if official and wanted.methods is None:
        _report_other_methods(root, other_methods(root))
    split_of = split_of_ids(pairs)
    fakes = [f"{a}_{b}" for listed in pairs.values() for pair in listed for a, b in (pair, pair[::-1])]
    person_of = _people(root / IDENTITIES) if (root / "forge.json").is_file() else {}
    found = _videos(root / ORIGINAL / wanted.compression / "videos", "real", list(split_of), split_of)
    for method in methods:
        found += _videos(root / MANIPULATED / method / wanted.compression / "videos", method, fakes, split_of)
    return [replace(source, person=person_of.get(source.video.partition("_")[0])) for source in found]


def _people(file: Path) -> dict[str, str]:
    """The person of each id."""
    try:
        return {video_id: str(row["person"]) for video_id, row in read_json(file).items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}: not what forge.py writes ({error!r}); run forge.py again") from None


def other_methods(root: Path) -> list[str]:
    """The folders of forgeries beside FF++'s four methods: FaceShifter, DeepFakeDetection, ..."""
    return sorted(_method_folders(root) - set(METHODS))


def _method_folders(root: Path) -> set[str]:
    return {path.name for path in (root / MANIPULATED).glob("[!.]*") if path.is_dir()}


def _report_other_methods(root: Path, names: list[str]) -> None:
    if names:
        to_stderr_once(
            f"{root / MANIPULATED}: left out {', '.join(names)}, which are not of FF++'s four methods "
            "(--methods takes them)"
        )


def _videos(folder: Path, method: str, ids: list[str], split_of: dict[str, str]) -> list[Source]:
    found = find_media(folder, ("video",))
    check_readable(found)
    report_left_out(folder, found)
    present = found.files
    stems = {path.stem for path in present}
    paths = [*present, *(folder / f"{stem}.mp4" for stem in dict.fromkeys(ids) if stem not in stems)]
    return [Source(path, int(method != "real"), method, path.stem, _split(path, split_of)) for path in paths]


def _split(path: Path, split_of: dict[str, str]) -> str:
    ids = path.stem.split("_")
    splits = {split_of.get(video_id) for video_id in ids}
    split = splits.pop()
    if splits or split is None:
        each = ", ".join(f"{video_id} in {split_of.get(video_id) or 'none'}" for video_id in ids)
        raise UserError(f"{path}: its ids are not in one split ({each})")
    return split


def split_of_ids(pairs: Pairs) -> dict[str, str]:
    """The split of each id."""
    return {video_id: split for split, listed in pairs.items() for pair in listed for video_id in pair}


def _splits(pairs: Pairs) -> dict[str, set[frozenset[str]]]:
    """The pairs without their order, which decides nothing: both a_b and b_a are fakes."""
    return {split: {frozenset(pair) for pair in listed} for split, listed in pairs.items()}


def official_test() -> set[Video]:
    """Method and id of the 140 real videos and 560 fakes of FF++'s test split."""
    pairs = official_pairs()["test"]
    fakes = {f"{a}_{b}" for pair in pairs for a, b in (pair, pair[::-1])}
    reals = {("real", video_id) for pair in pairs for video_id in pair}
    return reals | {(method, name) for method in METHODS for name in fakes}


def is_test_split(videos: Collection[Video]) -> bool:
    """Whether videos are FF++'s test split: its own by name, and at most one in a hundred missing.

    A set made by forge.py with the same counts and folders has other splits, so it is not taken for FF++.
    """
    official = official_test()
    return official.issuperset(videos) and len(official.difference(videos)) <= MOST_MISSING * len(official)


def official_pairs() -> Pairs:
    """The pairs of FF++'s official splits: 360, 70 and 70."""
    with OFFICIAL_SPLITS.open(newline="") as lines:
        rows = list(csv.DictReader(line for line in lines if line[0] != "#"))
    return {split: [(row["a"], row["b"]) for row in rows if row["split"] == split] for split in SPLITS}


def read_own_pairs(root: Path) -> Pairs | None:
    """The pairs in the tree's splits/*.json, or None without such files. UserError where an id is in two splits."""
    files = {split: root / "splits" / f"{split}.json" for split in SPLITS}
    if not any(file.exists() for file in files.values()):
        if (root / "forge.json").is_file():
            raise UserError(f"{root}: an unfinished forgery set (no splits/ yet); run forge.py again to finish it")
        return None
    pairs: Pairs = {}
    split_of: dict[str, str] = {}
    for split, file in files.items():
        pairs[split] = _read_pairs(file)
        ids = {video_id for pair in pairs[split] for video_id in pair}
        twice = sorted(ids & split_of.keys())
        if twice:
            raise UserError(f"{file}: id {twice[0]} is in {split_of[twice[0]]} too (wanted each id in one split)")
        split_of |= dict.fromkeys(ids, split)
    return pairs


def _read_pairs(file: Path) -> list[tuple[str, str]]:
    text = read_text(file)
    try:
        pairs = parse_json(text)
    except ValueError as error:
        raise UserError(f"{file}: not a list of [target, source] pairs ({error})") from None
    if not isinstance(pairs, list) or not all(map(_is_pair, pairs)):
        raise UserError(f"{file}: not a list of [target, source] pairs")
    return [(target, source) for target, source in pairs]


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(video_id, str) for video_id in value)
