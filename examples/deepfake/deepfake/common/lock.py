"""A lock on a folder: a second process that would write there is refused. The lock ends with its process."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from .cli import UserError

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # errors of a file system without locks


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
        if error.errno not in NO_LOCKS:
            raise UserError(f"cannot write {file}: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()
