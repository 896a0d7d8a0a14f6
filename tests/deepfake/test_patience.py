"""Patience: a wait that is too long ends the process in one line; time in which it was stopped does not count."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.deepfake.scripts import environment

if not hasattr(signal, "SIGSTOP"):
    pytest.skip("Windows stops no processes", allow_module_level=True)


def start(code: str) -> subprocess.Popen[str]:
    """A process with a `patience` of one and a half seconds, which prints a line when it begins."""
    lines = ("import time", "from deepfake.training import patience as module", "module.TICK = 0.1",
             "patience = module.Patience(1.5, 'waited too long')", "print('begins', flush=True)", code)  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-c", "\n".join(lines)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    assert process.stdout and process.stdout.readline() == "begins\n"
    return process


def test_a_wait_that_is_too_long_ends_the_process_in_a_line() -> None:
    process = start("with patience.waiting():\n    time.sleep(60)")
    assert process.communicate(timeout=30)[1] == "error: waited too long\n" and process.returncode == 1


def test_waits_that_end_in_time_and_work_between_them_may_take_long() -> None:
    process = start("for _ in range(4):\n    with patience.waiting():\n        time.sleep(0.6)\ntime.sleep(2)")
    assert process.communicate(timeout=30)[1] == "" and process.returncode == 0


def test_the_time_of_a_stopped_process_does_not_count() -> None:
    process = start("with patience.waiting():\n    time.sleep(60)")
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(2)
    os.kill(process.pid, signal.SIGCONT)
    time.sleep(0.2)
    assert process.poll() is None
    assert process.communicate(timeout=30)[1] == "error: waited too long\n"
