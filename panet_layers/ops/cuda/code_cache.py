"""Compiled code on disk: a file for each key, of the code after its SHA-256; nothing here can make a computation fail.

The folder is `PANET_LAYERS_CACHE`, else `panet_layers` in `XDG_CACHE_HOME` or `~/.cache`. Other processes may use the
same files at the same time: each is written beside its place and moved there.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from pathlib import Path

ENVIRONMENT_VARIABLE = "PANET_LAYERS_CACHE"
HASH_BYTES = 32


def folder() -> Path:
    """Return where compiled code is kept."""
    if named := os.environ.get(ENVIRONMENT_VARIABLE):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "panet_layers")


def load(key: str) -> bytes | None:
    """Return the code that is stored under the key; None if no file has it, or if the file is damaged."""
    try:
        stored = (folder() / key).read_bytes()
        if hashlib.sha256(stored[HASH_BYTES:]).digest() == stored[:HASH_BYTES]:
            return stored[HASH_BYTES:]
        _warn_once(f"{folder() / key} is damaged; the code is compiled again")
    except FileNotFoundError:
        pass
    except (OSError, RuntimeError) as error:  # RuntimeError: no home folder
        _warn_once(f"compiled GPU code cannot be read: {error}")
    return None


def store(key: str, code: bytes) -> None:
    """Store the code under the key, or warn, once in a process, that this is not possible."""
    try:
        folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder()) as beside:
            part = Path(beside, key)
            part.write_bytes(hashlib.sha256(code).digest() + code)
            os.replace(part, folder() / key)
    except (OSError, RuntimeError) as error:
        _warn_once(f"compiled GPU code is not kept, so each process compiles it: {error}; set {ENVIRONMENT_VARIABLE}")


def _warn_once(message: str) -> None:
    if not _warned:
        _warned.append(message)
        warnings.warn(f"panet_layers: {message}", stacklevel=2)


_warned: list[str] = []
