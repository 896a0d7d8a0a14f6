"""What reproduce.py --plan says of the data: what is trained and tested on, and whether the report will compare."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..dataset.manifest import SPLITS, list_images
from ..preparing.tasks import Task
from ..sources import ffpp
from .recipe import departures
from .table_one import COMPRESSION_NAMES

ROW = "{:<8}{:<8}{:<18}{:>8}{:>10}"


class Part(NamedTuple):
    """The videos of one method in one split, and the number of images that are taken of them."""

    videos: set[str]
    images: int


Parts = dict[tuple[str, str], Part]
"""By split and method."""


def planned(tasks: Sequence[Task]) -> Parts:
    """What will be prepared, by the names of the files: at most so many images, as a frame may show no face."""
    sources = (task.source for task in tasks)
    return _parts((source.split, source.method, source.manifest_video, task.count or 0)
                  for source, task in zip(sources, tasks, strict=True))  # fmt: skip


def prepared(folder: Path) -> Parts:
    """What is prepared, by the manifest."""
    records, _ = list_images(folder)
    return _parts((record.split, record.method, record.video.partition("/")[2], 1) for record in records)


def _parts(images: Iterable[tuple[str, str, str, int]]) -> Parts:
    videos: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    counts: Counter[tuple[str, str]] = Counter()
    for split, method, video, count in images:
        videos[split, method].add(video)
        counts[split, method] += count
    return {key: Part(videos[key], counts[key]) for key in videos}


def print_data(parts: dict[str, Parts], recipe: dict[str, Any]) -> None:
    """Print what is trained and tested on, by compression, and whether the report will compare with the paper."""
    for compression, found in parts.items():
        print(f"\n{COMPRESSION_NAMES[compression]}, images at most:")
        print("\n".join(rows(found)))
    print("\n".join(["", *comparison(parts, recipe)]))


def rows(parts: Parts) -> list[str]:
    """A table: videos and images by split, class and method, the reals first."""
    lines = [ROW.format("split", "class", "method", "videos", "images")]
    for split in SPLITS:
        methods = sorted((method for of, method in parts if of == split), key=lambda method: (method != "real", method))
        for method in methods:
            part = parts[split, method]
            kind = "real" if method == "real" else "fake"
            lines.append(ROW.format(split, kind, method, len(part.videos), part.images))
    return lines


def comparison(parts: dict[str, Parts], recipe: dict[str, Any]) -> list[str]:
    """Whether the report will compare with the paper's Table I, and why not: of each compression, then the recipe."""
    lines = []
    for compression, found in parts.items():
        name = COMPRESSION_NAMES[compression]
        reason = why_not(found)
        lines.append(f"{name}: " + (f"no comparison with the paper: {reason}" if reason else "compares with the paper"))
    changed = departures(recipe)
    if changed:
        lines.append(f"not the paper's recipe, which the report will say: {'; '.join(changed)}")
    return lines


def why_not(parts: Parts) -> str | None:
    """Why these are not FF++'s test split; None if they are."""
    tested = {(method, video) for (split, method), part in parts.items() if split == "test" for video in part.videos}
    if ffpp.is_test_split(tested):
        return None
    official = ffpp.official_test()
    others = sorted(tested - official)
    if others:
        return f"{len(others)} test videos are not of FF++'s test split, such as {'/'.join(others[0])}"
    return f"{len(official - tested)} of FF++'s {len(official)} test videos are missing"
