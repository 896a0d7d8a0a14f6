"""How quiet a machine is: what other processes take of its processors while something is measured."""

from __future__ import annotations

import os
import time
from pathlib import Path

_IDLE = slice(3, 5)  # of the first line of /proc/stat: idle, and waiting for a disk


class OtherProcesses:
    """Counts from its creation on; other guests of a virtual machine's host count where the host reports them."""

    def __init__(self) -> None:
        self._start = _counted()

    def share(self) -> str:
        """Return the share of all processors' time that other processes took, such as "3%"; "" where none is known."""
        now = _counted()
        if now is None or self._start is None:
            return ""
        busy, own, passed = (after - before for after, before in zip(now, self._start))
        return f"{max(0.0, busy - own) / (passed * (os.cpu_count() or 1)):.0%}"


def _counted() -> tuple[float, float, float] | None:
    """Return the seconds that all processors were busy, that this process took of them, and the time."""
    counts = Path("/proc/stat")  # Linux only
    if not counts.exists():
        return None
    ticks = [int(number) for number in counts.read_text().split("\n", 1)[0].split()[1:9]]  # user to stolen
    busy = (sum(ticks) - sum(ticks[_IDLE])) / os.sysconf("SC_CLK_TCK")
    own = os.times()
    return busy, own.user + own.system, time.monotonic()
