"""Drill: two hundred predictions in one process; memory, threads, processes and open files stay as they were."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("dlib", reason="finding faces needs dlib-bin")

import predict
from tests.deepfake.portraits_for_tests import save_people
from tests.deepfake.scripts import call_json
from tests.deepfake.tiny_runs import build, save_run
from tests.drills.resident_memory import MOST_GROWTH, grown

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

    assert grown(ten, 3, 20) < MOST_GROWTH
