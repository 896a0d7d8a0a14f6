"""examples/train_detector.py, the trainer to copy: it learns, saves what it says, and refuses what it cannot use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from panet_layers.models import PANet
from tests.deepfake.scripts import REPOSITORY, environment

SCRIPT = REPOSITORY / "examples/train_detector.py"


def save_people(folder: Path, people: int) -> Path:
    """Two real and two fake images for each person; fakes have a bright square."""
    rng = np.random.default_rng(0)
    for kind in ("real", "fake"):
        (folder / kind).mkdir(parents=True)
        for number in range(2 * people):
            pixels = rng.integers(0, 150, (64, 64, 3), dtype=np.uint8)
            pixels[16:48, 16:48] += 100 * (kind == "fake")
            Image.fromarray(pixels).save(folder / kind / f"person{number // 2}_{number % 2}.png")
    return folder


def run(tmp_path: Path, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), str(folder), "--out", str(tmp_path / "detector.pt"), *options]
    return subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)


def test_it_learns_and_saves_the_best_epoch(tmp_path: Path) -> None:
    done = run(tmp_path, save_people(tmp_path / "faces", 12), "--epochs", "3", "--batch-size", "8", "--workers", "0")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3 and float(lines[-1].split()[-1]) > 0.9
    saved = torch.load(tmp_path / "detector.pt")
    model = PANet.from_config(saved["config"])
    model.load_state_dict(saved["state_dict"])


@pytest.mark.parametrize("people", [0, 1])
def test_too_few_people_are_one_line(people: int, tmp_path: Path) -> None:
    done = run(tmp_path, save_people(tmp_path / "faces", people))
    assert done.returncode == 1 and done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1
    assert "faces" in done.stderr and not (tmp_path / "detector.pt").exists()


def test_other_folders_are_named(tmp_path: Path) -> None:
    folder = save_people(tmp_path / "faces", 1)
    (folder / "real").rename(folder / "genuine")
    done = run(tmp_path, folder)
    assert done.returncode == 1 and "genuine" in done.stderr and len(done.stderr.splitlines()) == 1


def test_it_stays_short_enough_to_copy() -> None:
    assert len(SCRIPT.read_text().splitlines()) <= 80
