"""A lock on a folder: a second process that would write there is refused. The lock ends with its process."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from .cli import UserError

CANNOT_WRITE = (errno.EACCES, errno.EISDIR, errno.ENOENT, errno.ENOTDIR, errno.EPERM, errno.EROFS, errno.ENOSPC)
"""Errors of the file. Any other error is that of a file system without locks, which have no common error number."""


@contextlib.contextmanager
def locked(file: Path, message: str) -> Iterator[None]:
    """Hold the lock `file`, created if missing. UserError with `message` if another process holds it.

    On a file system without locks the block runs unlocked: a file that stands for a lock would outlive its process.
    """
    lock = FileLock(file, timeout=0, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(message, exit_code=2) from None
    except OSError as error:
        if error.errno in CANNOT_WRITE:
            raise UserError(f"cannot write {file}: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()
