"""A lock on a folder: of two processes that would write there, the second is told so. It dies with its owner."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from .cli import UserError

try:
    import fcntl
except ImportError:  # Windows: nothing locks there
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def locked(file: Path, message: str) -> Iterator[None]:
    """Hold the lock `file` (made where it is not there) while entered. UserError with `message` if another does."""
    if fcntl is None:
        yield
        return
    try:
        handle = open(file, "ab")  # noqa: SIM115 (an error of the block below is not one of opening)
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror or error}") from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(message, exit_code=2) from None
        except OSError:  # a file system without locks
            pass
        yield
