"""Damages files as strangers and bad disks do: bytes of any file, values of JSON, members of what torch.save wrote."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from copy import deepcopy
from random import Random
from typing import Any

TOKENS = (
    b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\n", b",", b'"', b"{", b"}", b"[" * 40, b"[" * 20_000, b'{"a":' * 20_000,
    b"9" * 5000, b"-1", b"1e999", b"NaN", b"null", b"true", b'"/etc/passwd"', b"../../outside/", b"\\u0000", b"\\ud800",
    b"x" * 300, b'"label": 1, "label": 0,', b"cos\nsystem\n(S'touch witness'\ntR.", b"c__builtin__\neval\n(V1\ntR.",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 0.5, 1e308, float("nan"), float("inf"), 10**12, 10**30, -(2**63), "", " ",
    "x" * 300, "real", "fake", "0", "\0", "\ud800", "ä" * 200, "..", ".", "/", "/etc/passwd", "../outside/secret.png",
    "a/../../outside/1.png", "C:\\a\\1.png", "link/1.png", "train", "test", [], {}, [[]], [0, 1, 2, 3], [1, 0, 0, 1],
    ["real"], {"label": 0}, {"frames": []}, {"": None}, {"a": {"b": {"c": [{}]}}},
)  # fmt: skip


def damaged(content: bytes, draw: Random) -> bytes:
    """Bytes with one to four changes: flipped bits, other bytes, a cut, a part twice or nowhere, a token."""
    changed = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(changed) + 1)
        end = min(len(changed), at + draw.choice((1, 4, 30, 1000)))
        kind = draw.randrange(6)
        if kind == 0 and at < end:
            changed[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            changed[at:end] = draw.randbytes(end - at)
        elif kind == 2:
            del changed[at:]
        elif kind == 3:
            changed[at:at] = changed[at:end]
        elif kind == 4:
            del changed[at:end]
        else:
            changed[at:at] = draw.choice(TOKENS)
    return bytes(changed)


def changed_json(value: Any, draw: Random) -> Any:
    """A JSON value with one to three values in it replaced, removed, or moved to another key."""
    value = json.loads(json.dumps(value))
    for _ in range(draw.randint(1, 3)):
        holders = [holder for holder in _holders(value) if holder]
        if not holders:
            return deepcopy(draw.choice(VALUES))
        holder = draw.choice(holders)
        key = draw.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        kind = draw.randrange(4)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[draw.choice([text for text in VALUES if isinstance(text, str)])] = holder.pop(key)
        else:
            holder[key] = deepcopy(draw.choice(VALUES))  # the next change may be in it
    return value


def _holders(value: Any) -> list[Any]:
    """All dicts and lists in a value."""
    if not isinstance(value, (dict, list)):
        return []
    inside = value.values() if isinstance(value, dict) else value
    return [value, *(holder for inner in inside for holder in _holders(inner))]


def damaged_json(value: Any) -> Callable[[Random], bytes]:
    """JSON with other values or, one time in three, other bytes."""

    def make(draw: Random) -> bytes:
        text = json.dumps(changed_json(value, draw)).encode()
        return damaged(text, draw) if draw.randrange(3) == 0 else text

    return make


def damaged_lines(rows: list[Any]) -> Callable[[Random], bytes]:
    """JSON Lines with other values or, one time in three, other bytes."""

    def make(draw: Random) -> bytes:
        changed = changed_json(rows, draw)
        lines = changed if isinstance(changed, list) else [changed]
        text = "\n".join(map(json.dumps, lines)).encode()
        return damaged(text, draw) if draw.randrange(3) == 0 else text

    return make


def damaged_bytes(content: bytes) -> Callable[[Random], bytes]:
    """A file with other bytes."""
    return lambda draw: damaged(content, draw)


def damaged_zip(content: bytes) -> Callable[[Random], bytes]:
    """What torch.save wrote, one of its members with other bytes and the right checksum, stored or compressed."""
    with zipfile.ZipFile(io.BytesIO(content)) as members:
        parts = {name: members.read(name) for name in members.namelist()}

    def make(draw: Random) -> bytes:
        if draw.randrange(4) == 0:
            return damaged(content, draw)
        chosen = draw.choice([name for name in parts if name.endswith(".pkl")] * 3 + list(parts))
        kind = draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
        written = io.BytesIO()
        with zipfile.ZipFile(written, "w", kind) as members:
            for name, part in parts.items():
                members.writestr(name, damaged(part, draw) if name == chosen else part)
        return written.getvalue()

    return make


def damaged_header(content: bytes) -> Callable[[Random], bytes]:
    """A safetensors file whose header has other values, and says its right length."""
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]

    def make(draw: Random) -> bytes:
        if draw.randrange(4) == 0:
            return damaged(content, draw)
        text = json.dumps(changed_json(header, draw)).encode()
        return len(text).to_bytes(8, "little") + text + data

    return make
