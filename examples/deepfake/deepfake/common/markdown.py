"""Markdown: tables, and files of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from .files import replacing


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """The lines of a table, without a newline at the end; cells are Markdown themselves."""
    first, *others = ("|" + "".join(f" {cell} |" if cell != "" else " |" for cell in line) for line in (head, *rows))
    return "\n".join([first, "|" + "---|" * len(head), *others])


def write_markdown(path: Path, text: str) -> None:
    """Write a Markdown file; bytes of file names that are no text become "?"."""
    with replacing(path) as file:
        file.write(text.encode(errors="replace"))
