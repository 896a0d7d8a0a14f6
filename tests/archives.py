"""Archives of the project's own files, unpacked in tests."""

from __future__ import annotations

import tarfile
from pathlib import Path


def unpack(archive: Path, folder: Path) -> None:
    """Write an archive's files into a folder; with the filter that Python has from 3.10.12 and 3.11.4 on."""
    with tarfile.open(archive) as opened:
        opened.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
