"""What a process holds: memory, threads, open files, children; and by how much memory grows when work is repeated."""

from __future__ import annotations

import gc
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

MIB = 2**20
MOST_GROWTH = 4
"""MiB that repeated work may add, of which 0.7 were measured at most."""


class Held(NamedTuple):
    """How many of each a process has."""

    threads: int
    files: int
    children: int


def resident(process: int | None = None) -> float:
    """The MiB of a process, or of this one, that are in memory."""
    if process is None:
        gc.collect()
    pages = int((_folder(process) / "statm").read_text().split()[1])
    return pages * resource.getpagesize() / MIB


def held(process: int | None = None) -> Held:
    """What a process, or this one, has besides memory."""
    folder = _folder(process)
    children = [child for file in folder.glob("task/*/children") for child in file.read_text().split()]
    return Held(len(os.listdir(folder / "task")), len(os.listdir(folder / "fd")), len(children))


def grown(repeat: Callable[[], object], warm: int, times: int) -> float:
    """How many MiB this process grows by, from after `warm` calls to after `times` more. Nothing else is left."""
    for _ in range(warm):
        repeat()
    before, others = resident(), held()
    for _ in range(times):
        repeat()
    growth = resident() - before
    print(f"{times} times: memory grew by {growth:.1f} MiB")  # shown with pytest -rP
    assert held() == others
    return growth


def _folder(process: int | None) -> Path:
    return Path(f"/proc/{process or 'self'}")
