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


@contextmanager
def read_only(disk: Path) -> Iterator[None]:
    """Let nothing be written meanwhile."""
    _remount(disk, "ro")
    try:
        yield
    finally:
        _remount(disk, "rw")


def contents(disk: Path) -> dict[Path, bytes]:
    """The files of a disk and what they hold, but for locks and what `fill` wrote."""
    files = [path for path in disk.rglob("*") if path.is_file() and not path.name.endswith((FILLER, ".lock"))]
    return {path: path.read_bytes() for path in files}


def half_written(disk: Path) -> list[Path]:
    """Files that are empty or temporary."""
    return [path for path, content in contents(disk).items() if not content or path.suffix == ".tmp"]


def _remount(disk: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)
