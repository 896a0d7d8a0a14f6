"""A disk of a few megabytes, which a test can fill and empty. It needs the right to mount a tmpfs."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

FILLER = "filler"


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """Mount an empty disk at a new folder. Skips the test where this is not allowed."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"cannot mount a tmpfs: {error}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, left: int = 0) -> None:
    """Fill a disk but for `left` bytes."""
    with (disk / FILLER).open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
        size = file.tell() - left
        file.truncate(max(0, size))


def empty(disk: Path) -> None:
    """Take away what `fill` wrote."""
    (disk / FILLER).unlink()


def make_read_only(disk: Path) -> None:
    """Let nothing more be written."""
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
