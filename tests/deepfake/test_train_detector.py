"""examples/train_detector.py, the trainer to copy: it learns, saves what it says, and refuses what it cannot use."""

from __future__ import annotations

import runpy
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


def refusal(folder: Path, out: Path) -> str:
    """What the script says, in place of training on the folder."""
    main = runpy.run_path(str(SCRIPT))["main"]
    with pytest.raises(SystemExit) as caught:
        main(folder, out, "tiny", epochs=1, batch_size=8, lr=1e-3, workers=0)
    assert isinstance(caught.value.code, str) and caught.value.code.startswith(f"error: {folder}: ")
    return caught.value.code


def test_it_learns_and_saves_the_best_epoch(tmp_path: Path) -> None:
    faces, out = save_people(tmp_path / "faces", 12), tmp_path / "detector.pt"
    command = [sys.executable, str(SCRIPT), str(faces), "--out", str(out), "--batch-size", "8", "--workers", "0"]
    done = subprocess.run([*command, "--epochs", "3"], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3 and float(lines[-1].split()[-1]) > 0.9
    saved = torch.load(out)
    model = PANet.from_config(saved["config"])
    model.load_state_dict(saved["state_dict"])


def test_what_it_cannot_use_is_one_line(tmp_path: Path) -> None:
    out = tmp_path / "detector.pt"
    assert "no valid file" in refusal(save_people(tmp_path / "empty", 0), out)
    assert "too few people (1)" in refusal(save_people(tmp_path / "alone", 1), out)
    faces = save_people(tmp_path / "faces", 12)
    assert "No such file" in refusal(tmp_path / "nowhere", out)
    assert "No such file" in refusal(faces, tmp_path / "nowhere/detector.pt")
    (faces / "real").rename(faces / "genuine")
    assert "genuine" in refusal(faces, out)
    assert not out.exists()


def test_it_stays_short_enough_to_copy() -> None:
    assert len(SCRIPT.read_text().splitlines()) <= 80
