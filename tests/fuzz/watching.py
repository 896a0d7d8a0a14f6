"""Watches a call: which files it opens, whether it starts a program or a connection, how much memory it asks for."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deepfake.common.cli import UserError

MEMORY = 3 * 2**30
"""What a reader may ask for beyond what the process has."""
FORBIDDEN = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect", "pty.spawn")
PRIVATE = ("/etc/", "/root/", "/home/", "/dev/zero")

_seen: list[tuple[str, Any]] | None = None


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if _seen is not None and (event in FORBIDDEN or event in ("open", "os.scandir", "os.listdir")):
        _seen.append((event, arguments[0] if arguments else None))


sys.addaudithook(_note)  # cannot be removed; outside of `judge` it does nothing


def judge(read: Callable[[], object], inside: Path, around: Path) -> bool:
    """Whether the call accepts its input. AssertionError unless it returns, or raises a UserError of one line.

    In `around`, it may open only what is in `inside`.
    """
    global _seen
    _seen = []
    try:
        with _limited_memory():
            read()
        accepted = True
    except UserError as error:
        text = str(error)
        assert "\n" not in text.strip() and 0 < len(text) < 3000, text[:3000]
        accepted = False
    finally:
        seen, _seen = _seen, None
    for event, path in seen:
        assert event not in FORBIDDEN, (event, path)
        if isinstance(path, (str, bytes, os.PathLike)):
            real = Path(os.path.realpath(os.fsdecode(path)))
            assert not real.is_relative_to(around) or real.is_relative_to(inside), (event, path)
            own = real.is_relative_to(around) or real.is_relative_to(sys.base_prefix) or real.is_relative_to(sys.prefix)
            assert own or not str(real).startswith(PRIVATE), (event, path)
    return accepted


@contextmanager
def _limited_memory() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
