"""Writes results such that a file is complete or stays as it was."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def replace(path: Path, content: bytes) -> None:
    """Write a file, all or nothing: beside `path` first, then renamed. Raises OSError."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(content)
        os.replace(beside, path)
    finally:
        with suppress(OSError):
            beside.unlink()
