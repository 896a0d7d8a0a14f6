"""What a manifest says of the data: whether its test videos are FF++'s, which are missing, what has no crop and why."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from ..common.files import read_bytes
from ..common.texts import decode, numbered_lines, parse_json
from ..dataset.manifest import MANIFEST
from ..sources import ffpp

MOST_MISSING = 0.01  # of FF++'s 700 test videos: so few can change ACC by about one point at most

Video = tuple[str, str]  # method and id


class Coverage(NamedTuple):
    """One compression's data.

    Args:
        fingerprint: the manifest's sha256.
        official: whether all test videos are FF++'s, by name.
        missing: FF++'s test videos without a crop.
        problems: how many videos and frames have no crop, by reason.
    """

    fingerprint: str
    official: bool
    missing: list[Video]
    problems: Counter[str]

    @property
    def is_ffpp(self) -> bool:
        """Whether this is FF++'s test split, of which at most one video in a hundred is missing.

        A set made by forge.py with the same counts and folders has other splits, so it is not taken for FF++.
        """
        return self.official and len(self.missing) <= MOST_MISSING * len(official_test())


def read_coverage(folder: Path) -> Coverage:
    """The coverage of a prepared folder, from its manifest. UserError if it cannot be read."""
    content = read_bytes(folder / MANIFEST)
    rows = [parse_json(line) for _, line in numbered_lines(decode(content))]
    tested = {(row["method"], row["video"]) for row in rows if row["split"] == "test" and "path" in row}
    official = official_test()
    problems = Counter(_kind(row["problem"], row.get("frame")) for row in rows if "path" not in row)
    return Coverage(hashlib.sha256(content).hexdigest(), tested <= official, sorted(official - tested), problems)


def official_test() -> set[Video]:
    """Method and id of the 140 real videos and 560 fakes of FF++'s test split."""
    pairs = ffpp.official_pairs()["test"]
    fakes = {f"{a}_{b}" for pair in pairs for a, b in (pair, pair[::-1])}
    reals = {("real", video_id) for pair in pairs for video_id in pair}
    return reals | {(method, name) for method in ffpp.METHODS for name in fakes}


def _kind(problem: str, frame: int | None) -> str:
    if problem == "missing":
        return "missing videos"
    if problem.startswith("no face"):
        return "videos without a face" if frame is None else "frames without a face"
    return "unreadable videos"
