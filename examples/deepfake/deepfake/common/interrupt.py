"""Ctrl-C, and what schedulers send to end a job: as a request between two steps, or as an exception.

They send SIGTERM, or before a job's time is over SIGUSR1 (SLURM's `--signal=USR1@120`). torchrun does not
survive SIGUSR1.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn

SCHEDULERS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))  # Windows: one
ENDING = (signal.SIGINT, *SCHEDULERS)


class Terminated(KeyboardInterrupt):
    """A scheduler's signal has arrived. What handles Ctrl-C handles it too; only the exit code differs."""

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__()
        self.number = number


def exception_of(number: int) -> KeyboardInterrupt:
    """What a signal of ENDING raises."""
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated(number)


class Interrupt:
    """While entered, a signal of ENDING only sets ``requested``; a second Ctrl-C raises KeyboardInterrupt at once.

    A second one of a scheduler does not: torchrun passes on what the scheduler has sent to every process already.
    """

    def __init__(self) -> None:
        self.requested = False
        self._request = KeyboardInterrupt()
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():  # Python allows no other thread to set a handler
            self._previous = {number: signal.signal(number, self._note) for number in ENDING}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            if handler is not None:  # one that C code has set, which Python cannot set again
                signal.signal(number, handler)

    def leave(self) -> NoReturn:
        """Raise what was requested: KeyboardInterrupt, or Terminated."""
        raise self._request

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.requested:
            self._request = exception_of(number)
        self.requested = True


@contextmanager
def held_back() -> Iterator[None]:
    """Keep the signals of ENDING until the block ends. Processes that it starts get none while they start."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    arrived: list[int] = []  # at another thread, such as a progress bar's, whose mask is not this one's
    handlers = _replaced_handlers(lambda number, frame: arrived.append(number))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for each, handler in handlers.items():
            signal.signal(each, handler)
        for number in arrived:
            signal.raise_signal(number)


def _replaced_handlers(handler: Callable[[int, FrameType | None], Any]) -> dict[signal.Signals, Any]:
    """Set a handler where Python has one; the handlers before. Python allows no thread but the main one to set any."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    own = [number for number in ENDING if callable(signal.getsignal(number))]
    return {number: signal.signal(number, handler) for number in own}


@contextmanager
def raising_signals() -> Iterator[None]:
    """Let Ctrl-C raise KeyboardInterrupt and the others Terminated, where a parent process does not ignore them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in ENDING}
    if before[signal.SIGINT] is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in SCHEDULERS:
        if before[number] is signal.SIG_DFL:
            signal.signal(number, _raise_terminated)
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)


def _raise_terminated(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated(number)


def is_starting(commands: Path) -> bool:
    """Whether this process runs a command of the folder `commands`."""
    started = getattr(sys.modules.get("__main__"), "__file__", None)
    return started is not None and Path(started).resolve().parent == commands


def leave_while_importing(commands: Path) -> None:
    """Let Ctrl-C end a command in the folder `commands` in one line while it imports; cli.run takes over from there."""
    if is_starting(commands) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    os.write(2, b"interrupted\n")
    os._exit(130)
