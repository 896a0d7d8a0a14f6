"""How much memory this process has, and by how much it grows when something is repeated."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

MIB = 2**20
PAGE = 4096


def resident() -> int:
    """The bytes of this process that are in memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def grown(repeat: Callable[[], object], warm: int, times: int) -> float:
    """How many MiB the process grows by, from after `warm` calls to after `times` more."""
    for _ in range(warm):
        repeat()
    before = resident()
    for _ in range(times):
        repeat()
    return (resident() - before) / MIB
