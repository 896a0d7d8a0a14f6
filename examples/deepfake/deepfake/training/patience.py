"""Ends a process that waits too long for the others of its training. While it is stopped itself, no time passes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ..common.cli import to_stderr

TICK = 1.0  # seconds


class Patience:
    """Ends this process with one line where a block of ``waiting`` takes longer than a number of seconds.

    They are counted in sleeps, not on a clock: a sleep in which the process was stopped, by Ctrl-Z or with its whole
    machine, counts once, however long that was. Timeouts of gloo would end such a training when it goes on.

    Args:
        seconds: the longest wait.
        message: the line that is printed, with exit code 1.
    """

    def __init__(self, seconds: float, message: str) -> None:
        self.seconds, self.message = seconds, message
        self._slept = 0.0
        self._since: float | None = None  # what `_slept` was when the wait began
        threading.Thread(target=self._watch, daemon=True).start()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Watch what the block waits for."""
        self._since = self._slept
        try:
            yield
        finally:
            self._since = None

    def _watch(self) -> None:
        while True:
            time.sleep(TICK)
            self._slept += TICK
            since = self._since
            if since is not None and self._slept - since > self.seconds:
                to_stderr(f"error: {self.message}")
                os._exit(1)  # the main thread is in a call that does not return
