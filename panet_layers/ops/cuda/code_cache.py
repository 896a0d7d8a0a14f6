"""Compiled code on disk: a file for each key, of the code after its SHA-256; nothing here can make a computation fail.

The folder is `PANET_LAYERS_CACHE`, else `panet_layers` in `XDG_CACHE_HOME` or `~/.cache`. Other processes may use the
same files at the same time: each is written beside its place and moved there.
"""

from __future__ import annotations

import contextlib
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
    except FileNotFoundError:
        return None
    except (OSError, RuntimeError) as error:  # RuntimeError: no home folder
        _warn_once(f"compiled GPU code cannot be read: {error}")
        return None
    digest, code = stored[:HASH_BYTES], stored[HASH_BYTES:]
    if hashlib.sha256(code).digest() == digest:
        return code
    _warn_once(f"{folder() / key} is damaged; the code is compiled again")
    return None


def store(key: str, code: bytes) -> None:
    """Store the code under the key, or warn, once in a process, that this is not possible."""
    part = None
    try:
        folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, part = tempfile.mkstemp(dir=folder())
        with os.fdopen(descriptor, "wb") as file:
            file.write(hashlib.sha256(code).digest() + code)
        os.replace(part, folder() / key)
    except (OSError, RuntimeError) as error:
        _warn_once(
            f"compiled GPU code cannot be kept, so each process compiles it: {error}; set {ENVIRONMENT_VARIABLE}"
        )
        if part is not None:
            with contextlib.suppress(OSError):
                Path(part).unlink(missing_ok=True)


def _warn_once(message: str) -> None:
    if not _warned:
        _warned.append(message)
        warnings.warn(f"panet_layers: {message}", stacklevel=2)


_warned: list[str] = []
