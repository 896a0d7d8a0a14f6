"""The command lines of the package and its benchmarks: errors are one line, descriptions keep their lines."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """Reports an error in one line, without the usage, with exit code 2; keeps the lines of its description."""

    def __init__(self, formatter_class: Any = argparse.RawDescriptionHelpFormatter, **options: Any) -> None:
        super().__init__(formatter_class=formatter_class, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (see --help)\n")


def path(text: str) -> Path:
    """An argparse type: a path that is not empty, which would mean the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("is empty: give a name")
    return Path(text)
