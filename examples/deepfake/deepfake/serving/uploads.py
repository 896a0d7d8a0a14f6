"""An upload as a temporary file: its name, which is not trusted, and its bytes, which are counted as they come."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..common.cli import UserError
from .limits import MAX_BYTES, TooLarge


class NotStored(UserError):
    """The folder for temporary files takes no upload: its disk is full or read-only."""

    def __init__(self, error: OSError) -> None:
        super().__init__(
            f"the upload cannot be stored in {tempfile.tempdir or 'a temporary folder'} ({error.strerror or error})"
        )


LONGEST_STEM, LONGEST_SUFFIX = 56, 7  # characters of up to 4 bytes: below the 255 bytes that file systems allow


@contextmanager
def temporary_file(given_name: str) -> Iterator[Path]:
    """The path for an upload, in a folder of its own that is removed afterwards; `given_name` is the browser's."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="panet-upload-")
    except OSError as error:
        raise NotStored(error) from error
    with folder as name:
        yield Path(name, plain_name(given_name))


def plain_name(given: str) -> str:
    """The last part of a name, without control characters, too many others, or a leading dot."""
    last = given.replace("\\", "/").rpartition("/")[2]
    path = Path("".join(letter for letter in last if letter.isprintable()).strip().lstrip(".") or "unnamed")
    return path.stem[:LONGEST_STEM] + path.suffix[:LONGEST_SUFFIX]


async def receive(chunks: AsyncIterator[bytes], path: Path, announced: int) -> None:
    """Write an upload to `path`. TooLarge as soon as it is known: at once by the announced size, or while it comes."""
    if announced > MAX_BYTES:
        raise TooLarge(path.name)
    received = 0
    try:
        with open(path, "wb") as file:
            async for chunk in chunks:
                received += len(chunk)
                if received > MAX_BYTES:
                    raise TooLarge(path.name)
                file.write(chunk)
    except OSError as error:
        raise NotStored(error) from error
