"""Drill: a laptop is closed for a while. Its trainings go on, and end as if nothing had been."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.deepfake.scripts import SCRIPTS, environment
from tests.deepfake.short_trainings import arguments, assert_same_run, train_small
from tests.drills.progress import reached, wait_until
from tests.drills.two_ranks import TwoRanks

pytestmark = pytest.mark.long
CLOSED = 30  # seconds
OPTIONS = ("--epochs", "6", "--checkpoint-every", "1")


def test_a_training_with_readers_goes_on_after_it_was_stopped(noise_images: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, str(SCRIPTS / "train.py"), *arguments(noise_images, out, *OPTIONS, "--workers", "2")]
    process = subprocess.Popen(
        command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_until(out, 1, 1, process)
    os.killpg(process.pid, signal.SIGSTOP)
    stopped_at = reached(out)
    time.sleep(CLOSED)
    assert reached(out) == stopped_at < (6, 0)
    os.killpg(process.pid, signal.SIGCONT)
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 0, errors
    assert_same_run(out, train_small(noise_images, tmp_path / "undisturbed", *OPTIONS))


def test_two_processes_go_on_after_they_were_stopped_longer_than_one_waits_for_the_other(
    noise_images: Path, tmp_path: Path
) -> None:
    """A wait of 10 seconds and a stop of 30, where users have half an hour and close the lid for a night."""
    out = tmp_path / "run"
    script = Path(__file__).with_name("impatient_train.py")
    ranks = TwoRanks(*arguments(noise_images, out, *OPTIONS, "--workers", "1"), script=script, WAIT="10")
    wait_until(out, 1, 1, ranks.torchrun)
    ranks.stop()
    stopped_at = reached(out)
    time.sleep(CLOSED)
    assert reached(out) == stopped_at < (6, 0)
    ranks.go_on()
    code, errors = ranks.end(120)
    assert code == 0, errors
    code, errors = TwoRanks(*arguments(noise_images, tmp_path / "undisturbed", *OPTIONS)).end(120)
    assert code == 0, errors
    assert_same_run(out, tmp_path / "undisturbed")
