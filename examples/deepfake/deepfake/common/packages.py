"""Ends a command in one line, before it imports anything else, where packages of the extra `example` are missing."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

from .interrupt import is_starting

PACKAGES = ("PIL", "av", "cv2", "filelock", "matplotlib", "numpy", "scipy", "sklearn", "tqdm")
"""What the commands import, beside what every installation has. dlib and tensorboard are named where they are used."""


def end_without_packages(commands: Path) -> None:
    """End a command of the folder `commands` with exit code 2 if a package that it needs is missing."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing and is_starting(commands):
        command = Path(sys.argv[0]).name
        print(f'error: {command} needs {", ".join(missing)}: pip install -e ".[example]"', file=sys.stderr)
        sys.exit(2)
