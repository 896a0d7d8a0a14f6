"""Drill: a training is killed at twenty random moments, also while it writes a checkpoint, and resumed each time."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.deepfake.scripts import SCRIPTS, environment
from tests.deepfake.short_trainings import arguments, assert_same_run
from tests.drills.progress import reached

KILLS = 20
EPOCHS = 60  # more than a machine trains between the kills
pytestmark = pytest.mark.long


def test_a_training_that_is_killed_at_random_moments_reaches_the_same_weights(
    noise_images: Path, tmp_path: Path
) -> None:
    """A checkpoint after every step, so that many of the moments are in the middle of writing one."""
    options = ("--epochs", str(EPOCHS), "--checkpoint-every", "1")
    script = [sys.executable, str(SCRIPTS / "train.py")]
    first = [*script, *arguments(noise_images, tmp_path / "killed", *options)]
    again = [*script, "--resume", "--out", str(tmp_path / "killed")]
    out, rng, seen = tmp_path / "killed", np.random.default_rng(0), []
    for _ in range(KILLS):
        command = again if (out / "config.json").exists() else first
        process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        _wait_for_a_step(process, out)
        time.sleep(float(rng.uniform(0, 1)))
        process.kill()
        errors = process.communicate()[1].decode()
        assert process.returncode in (-9, 0), errors
        seen.append(reached(out))
    assert seen == sorted(seen) and len(set(seen)) > KILLS // 2, seen
    subprocess.run(again, env=environment(), check=True, capture_output=True)
    alone = [*script, *arguments(noise_images, tmp_path / "alone", *options)]
    subprocess.run(alone, env=environment(), check=True, capture_output=True)
    assert_same_run(out, tmp_path / "alone")
    assert not [path.name for path in out.rglob("*") if path.name.startswith(".") and path.name != ".lock"]


def _wait_for_a_step(process: subprocess.Popen[bytes], out: Path) -> None:
    before = reached(out)
    while reached(out) == before and process.poll() is None:
        time.sleep(0.01)
