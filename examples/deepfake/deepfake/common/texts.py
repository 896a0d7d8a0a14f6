"""Reads text files that people write: UTF-8, or as their byte-order mark says, and JSON that has one meaning only."""

from __future__ import annotations

import codecs
import io
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .cli import UserError
from .files import read_bytes

MARKS = {  # the first that fits counts: UTF-16's mark is the beginning of UTF-32's
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
DEEPEST = 32
"""Levels of JSON. No file of this package has half as many, and Python cannot print a value of thousands."""


def read_text(file: Path) -> str:
    """The content of a text file, without a byte-order mark. UserError that names the file if it cannot be read."""
    try:
        return decode(read_bytes(file))
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: byte {error.start} is not {error.encoding}; save it as UTF-8") from error


def decode(content: bytes) -> str:
    """A file's bytes as text, without a byte-order mark. UnicodeDecodeError if they are no text."""
    encoding = next((name for mark, name in MARKS.items() if content.startswith(mark)), "utf-8")
    return content.decode(encoding)


def read_json(path: Path) -> dict[str, Any]:
    """Read one JSON object. UserError, with the name of the file, if it is missing, damaged or something else."""
    text = read_text(path)
    try:
        value = parse_json(text)
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); restore it or write it again") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a {type(value).__name__}, wanted a JSON object")
    return value


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers from 1. They end at newlines alone, as JSON Lines and CSV do."""
    for number, line in enumerate(io.StringIO(text, newline=None), start=1):
        if line.strip():
            yield number, line.rstrip("\n")


def parse_json(text: str) -> Any:
    """A JSON value. ValueError if the text is not JSON, has a key twice or half a letter, or is nested too deeply."""
    too_deep = f"nested more than {DEEPEST} levels deep"
    try:
        value = json.loads(text, object_pairs_hook=_distinct)
    except RecursionError:
        raise ValueError(too_deep) from None
    level = [value]
    for _ in range(DEEPEST):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            _check_letters(text, value)
            return value
    raise ValueError(too_deep)


def _check_letters(text: str, value: Any) -> None:
    """ValueError where a text in a value can be neither printed nor a file's name, which may be no UTF-8."""
    if "\\ud" in text or "\\uD" in text:
        try:
            os.fsencode(json.dumps(value, ensure_ascii=False))
        except UnicodeEncodeError:
            raise ValueError("it holds one half of a letter of UTF-16") from None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object's keys and values; json itself would keep the last of two values without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {twice[:100]!r} is there twice")
    return found


def _inside(value: Any) -> list[Any]:
    """The objects and lists in one: the rest, as the frames of an index, may be millions."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [inner for inner in inside if isinstance(inner, (dict, list))]
