"""Reads regular files, and writes such that a crash leaves the old or the new one, never half."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from .cli import UserError

LONGEST_NAME = 255
"""Bytes of a file's or folder's name, on most file systems."""


@contextmanager
def replacing(path: Path, put: Callable[[Path, Path], None] = os.replace) -> Iterator[IO[bytes]]:
    """Open a temporary file that replaces ``path``, by ``put``, when the block ends without an error.

    Raises:
        UserError: ``path`` cannot be written (no permission, no space); the old file is kept.
    """
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")  # unique on a shared folder too, whatever the length
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        put(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        remove_if_there(temporary)


def short_name(name: str, longest: int = LONGEST_NAME) -> str:
    """The name of a file or folder; one of more than `longest` bytes is cut, and gets a hash of the whole."""
    content = os.fsencode(name)
    if len(content) <= longest:
        return name
    digest = hashlib.sha256(content).hexdigest()[:16]
    return content[: longest - len(digest) - 1].decode(errors="ignore") + "-" + digest


def remove_if_there(path: Path) -> None:
    """Remove a file. No error if it is missing or its path is impossible (too long, or below a file)."""
    with suppress(OSError):
        path.unlink()


def is_partial(path: Path) -> bool:
    """Whether a file is a temporary one of ``replacing``."""
    return path.name[0] == "." and path.suffix == ".tmp"


def remove_partial_files(folder: Path) -> None:
    """Remove the temporary files that a process left in a folder when it was killed inside ``replacing``."""
    for temporary in folder.glob(".*.tmp"):
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power failure, if the system can open folders (Windows cannot)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def make_folder(path: Path) -> Path:
    """Make a folder and its parents if missing, and return it.

    UserError if it cannot be written to; as for bad arguments if something else has its name.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        code = 2 if isinstance(error, (FileExistsError, NotADirectoryError)) else 1
        raise UserError(f"cannot make the folder {path}: {error.strerror or error}", code) from error
    if not os.access(path, os.W_OK):
        raise UserError(f"cannot write to the folder {path}")
    return path


def free_space(folder: Path) -> int:
    """Free bytes on the disk where `folder` is, or will be."""
    existing = next(path for path in (folder, *folder.absolute().parents) if os.path.exists(path))
    return shutil.disk_usage(existing).free


def shown_size(size: float) -> str:
    """A number of bytes in words, such as 0.1 GB, 99.0 MB, 99 bytes."""
    for unit, length in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= length / 10:
            return f"{size / length:.1f} {unit}"
    return f"{size:.0f} bytes"


def check_regular(path: str | Path, kind: str) -> None:
    """UserError unless a path leads to a regular file: opening a pipe waits for another program."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise UserError(f"{path}: no such {kind}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if not stat.S_ISREG(mode):
        found = "a folder" if stat.S_ISDIR(mode) else "a pipe" if stat.S_ISFIFO(mode) else "a device or a socket"
        raise UserError(f"{path}: {found} (wanted a file)")


def read_bytes(path: Path, most: int = -1) -> bytes:
    """The content of a regular file, or its first `most` bytes. UserError that names it if it cannot be read."""
    check_regular(path, "file")
    try:
        with open(path, "rb") as file:
            return file.read(most)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error


def write_json(path: Path, value: Any, put: Callable[[Path, Path], None] = os.replace) -> None:
    """Write ``value`` as indented JSON, completely or not at all."""
    with replacing(path, put) as file:
        file.write(json.dumps(value, indent=2).encode() + b"\n")


def put_if_absent(temporary: Path, path: Path) -> None:
    """As os.replace, but an existing file stays: of several processes or machines, the first one wins."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without links: the last one wins
        os.replace(temporary, path)
