"""Ends a script in one line where a package is missing that an extra of this one installs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path


@contextmanager
def needs(*extras: str) -> Iterator[None]:
    """Let a missing package that the block imports end the program: a line that names the extras, and exit code 2.

    A module that is missing in an installed package is a fault of another kind: ModuleNotFoundError goes on.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if not package or find_spec(package) is not None:
            raise
        script = Path(sys.argv[0]).name
        print(f'error: {script} needs {package}: pip install -e ".[{",".join(extras)}]"', file=sys.stderr)
        raise SystemExit(2) from None
