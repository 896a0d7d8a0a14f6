"""How far a training is that another process runs."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from tests.deepfake.short_trainings import last_state


def reached(out: Path) -> tuple[int, int]:
    """Epoch and step of the last checkpoint, which is always whole; zeros before the first."""
    if not (out / "last.pt").exists():
        return 0, 0
    progress = last_state(out)["progress"]
    return progress["epoch"], progress["step"]


def wait_until(out: Path, epoch: int, step: int, process: subprocess.Popen[str]) -> None:
    """Wait for a checkpoint of this moment or a later one. AssertionError if the process ends before."""
    while reached(out) < (epoch, step):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
