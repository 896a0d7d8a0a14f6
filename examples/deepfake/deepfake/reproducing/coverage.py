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


class Coverage(NamedTuple):
    """One compression's data.

    Args:
        fingerprint: the manifest's sha256.
        official: whether all test videos are FF++'s, by name.
        is_ffpp: whether this is FF++'s test split, but for a few missing videos.
        missing: FF++'s test videos without a crop.
        problems: how many videos and frames have no crop, by reason.
        people: the person of each test video, if the manifest says it of all; else none.
    """

    fingerprint: str
    official: bool
    is_ffpp: bool
    missing: list[ffpp.Video]
    problems: Counter[str]
    people: dict[str, str]


def read_coverage(folder: Path) -> Coverage:
    """The coverage of a prepared folder, from its manifest. UserError if it cannot be read."""
    content = read_bytes(folder / MANIFEST)
    rows = [parse_json(line) for _, line in numbered_lines(decode(content))]
    test_rows = [row for row in rows if row["split"] == "test" and "path" in row]
    tested = {(row["method"], row["video"]) for row in test_rows}
    people = {f"{row['method']}/{row['video']}": row.get("person") for row in test_rows}
    official = ffpp.official_test()
    problems = Counter(_kind(row["problem"], row.get("frame")) for row in rows if "path" not in row)
    fingerprint, missing = hashlib.sha256(content).hexdigest(), sorted(official - tested)
    return Coverage(
        fingerprint,
        tested <= official,
        ffpp.is_test_split(tested),
        missing,
        problems,
        {} if None in people.values() else people,
    )


def _kind(problem: str, frame: int | None) -> str:
    if problem == "missing":
        return "missing videos"
    if problem.startswith("no face"):
        return "videos without a face" if frame is None else "frames without a face"
    return "unreadable videos"
