"""A training in two processes under torchrun, as users start it, and all processes of it, in three sessions."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path

from tests.deepfake.scripts import SCRIPTS, environment

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
MARK = "PANET_LAYERS_DRILL"


class TwoRanks:
    """torchrun, started with a command of two processes; each process of it has a mark in its environment."""

    def __init__(self, *options: str, script: Path = SCRIPTS / "train.py", **more: str) -> None:
        self.mark = secrets.token_hex(8)
        self.torchrun = subprocess.Popen(
            [*TORCHRUN, str(script), *options], env=environment() | {MARK: self.mark} | more,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def processes(self) -> list[int]:
        """torchrun, the ranks and their readers, as far as they have not ended."""
        return [
            int(name) for name in os.listdir("/proc") if name.isdecimal() and self._variable(name, MARK) == self.mark
        ]

    def rank(self, number: int) -> int:
        """The process of a rank. Its readers have the same environment, and another parent."""
        (found,) = (pid for pid in self._children() if self._variable(str(pid), "RANK") == str(number))
        return found

    def stop(self, *processes: int) -> None:
        """Stop processes as Ctrl-Z does, or all of them as the lid of a laptop does."""
        for process in processes or self.processes():
            os.kill(process, signal.SIGSTOP)

    def go_on(self) -> None:
        """Let all go on."""
        for process in self.processes():
            os.kill(process, signal.SIGCONT)

    def end(self, seconds: float) -> tuple[int, str]:
        """The exit code and what is on stderr; all is killed if it has not ended by itself within some seconds."""
        try:
            _, errors = self.torchrun.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            for process in self.processes():
                os.kill(process, signal.SIGKILL)
            self.torchrun.communicate()
            raise
        return self.torchrun.returncode, errors

    def _children(self) -> list[int]:
        listed = Path(f"/proc/{self.torchrun.pid}/task").glob("*/children")
        return [int(pid) for file in listed for pid in file.read_text().split()]

    @staticmethod
    def _variable(process: str, name: str) -> str | None:
        try:
            found = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
        except OSError:  # it has ended
            return None
        values = [entry.partition(b"=")[2] for entry in found if entry.startswith(f"{name}=".encode())]
        return values[0].decode() if values else None
