"""Drill: one of two processes of a training is killed, or hangs. The other says so and ends; the training resumes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.deepfake.short_trainings import arguments, assert_same_run
from tests.drills.progress import reached, wait_until
from tests.drills.two_ranks import TwoRanks

pytestmark = pytest.mark.long
OPTIONS = ("--epochs", "6", "--checkpoint-every", "1")
IMPATIENT = Path(__file__).with_name("impatient_train.py")


@pytest.fixture(scope="module")
def undisturbed(noise_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    code, errors = TwoRanks(*arguments(noise_images, out, *OPTIONS)).end(300)
    assert code == 0, errors
    return out


@pytest.mark.parametrize("lost", [0, 1])
def test_where_a_rank_is_killed_the_other_ends_in_a_line_within_a_minute(
    noise_images: Path, tmp_path: Path, undisturbed: Path, lost: int
) -> None:
    out = tmp_path / "run"
    ranks = TwoRanks(*arguments(noise_images, out, *OPTIONS, "--workers", "1"))
    wait_until(out, 1, 1, ranks.torchrun)
    os.kill(ranks.rank(lost), signal.SIGKILL)
    code, errors = ranks.end(60)
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert code == 1 and len(lines) == 1, errors
    assert lines[0].startswith("error: another process of this training has ended or cannot be reached")
    assert lines[0].endswith(f"; the steps since the last checkpoint of {out} are lost: continue with --resume")
    assert "RuntimeError" not in errors and reached(out) < (6, 0)
    assert until_none_is_left(ranks)
    code, errors = TwoRanks("--resume", "--out", str(out)).end(300)
    assert code == 0, errors
    assert_same_run(out, undisturbed)


def test_where_a_rank_hangs_the_other_waits_for_a_while_and_ends_in_a_line(noise_images: Path, tmp_path: Path) -> None:
    """As one does whose machine is gone: its connection stays open. torchrun needs half a minute more to kill it."""
    out = tmp_path / "run"
    ranks = TwoRanks(*arguments(noise_images, out, *OPTIONS), script=IMPATIENT, WAIT="6")
    wait_until(out, 1, 1, ranks.torchrun)
    ranks.stop(ranks.rank(1))
    code, errors = ranks.end(60)
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert code == 1 and len(lines) == 1, errors
    assert lines[0].startswith("error: waited 0.1 minutes for the other processes of this training; the steps since")
    assert until_none_is_left(ranks)


def until_none_is_left(ranks: TwoRanks) -> bool:
    """Whether all processes end within some seconds."""
    for _ in range(100):
        if not ranks.processes():
            return True
        time.sleep(0.1)
    return False
