"""Drill: two hundred predictions in one process; memory, threads, processes and open files stay as they were."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("dlib", reason="finding faces needs dlib-bin")

import predict
from tests.deepfake.portraits_for_tests import save_people
from tests.deepfake.scripts import call_json
from tests.deepfake.tiny_runs import build, save_run
from tests.drills.resident_memory import MIB, resident

pytestmark = pytest.mark.long


def test_two_hundred_predictions(tmp_path: Path, capsys: Any) -> None:
    run = save_run(tmp_path / "run", build("panet"))
    save_people(tmp_path / "people")
    photos = sorted((tmp_path / "people").glob("*.png"))
    for number in range(12):
        shutil.copy(photos[number % len(photos)], tmp_path / f"copy{number}.png")
    batch = [str(tmp_path / f"copy{number}.png") for number in range(10)]

    def ten() -> None:
        code, answers, _ = call_json(predict.main, capsys, run, *batch)
        assert code == 0 and len(answers) == 10

    for _ in range(3):
        ten()
    before = resident(), threading.active_count(), len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        ten()
    after = resident(), threading.active_count(), len(os.listdir("/proc/self/fd"))
    assert after[0] - before[0] < 16 * MIB and after[1:] == before[1:], (before, after)
