"""examples/train_detector.py, the trainer to copy: it learns, saves what it says, and refuses what it cannot use."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch.utils.data import DataLoader

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


def test_it_learns_and_saves_the_best_epoch(tmp_path: Path) -> None:
    faces, out = save_people(tmp_path / "faces", 12), tmp_path / "detector.pt"
    command = [sys.executable, str(SCRIPT), str(faces), "--out", str(out), "--batch-size", "8", "--workers", "0"]
    done = subprocess.run([*command, "--epochs", "3"], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    printed = [float(line.split()[-1]) for line in done.stdout.splitlines()]
    assert len(printed) == 3 and max(printed) > 0.9
    saved = torch.load(out)
    model = PANet.from_config(saved["config"]).eval()
    model.load_state_dict(saved["state_dict"])
    _, validation = runpy.run_path(str(SCRIPT))["load"](faces, 64)
    pixels, classes = zip(*validation)
    with torch.inference_mode():
        logits = model(torch.stack(pixels)).logits[:, 0]
    assert roc_auc_score([1 - kind for kind in classes], logits) == pytest.approx(max(printed), abs=1e-4)


def test_frames_of_one_person_are_in_one_part(tmp_path: Path) -> None:
    for name in (f"{number:03}" for number in range(12)):
        for folder in (f"real/{name}", f"fake/swap/{name}_999", f"fake/blend/{name}_999"):
            (tmp_path / folder).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / folder / "0000.png")
    parts = runpy.run_path(str(SCRIPT))["load"](tmp_path, 64)
    people = [
        {re.search(r"\d{3}", part.dataset.samples[i][0].removeprefix(str(tmp_path)))[0] for i in part.indices}
        for part in parts
    ]
    assert [len(part) for part in parts] == [3 * len(names) for names in people]
    assert not people[0] & people[1] and len(people[0] | people[1]) == 12


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ("remove", [], "no valid file"),
        ("one person", [], "more people than 1"),
        ("rename", [], "Found no valid file|no other folder"),
        ("no folder", [], "No such file"),
        ("damage", ["--workers", "0"], "image file is truncated"),
        ("PostScript", ["--workers", "0"], "cannot identify image file"),
        ("", ["--epochs", "0"], "--epochs and --batch-size of at least 1"),
        ("", ["--batch-size", "0"], "--epochs and --batch-size of at least 1"),
        ("", ["--out", "."], "--out a file"),
        ("", ["--out", "nowhere/detector.pt"], "--out a file"),
    ],
)
def test_what_it_cannot_use_is_one_line(
    change: str,
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = save_people(tmp_path / "faces", {"remove": 0, "one person": 1}.get(change, 12))
    if change == "rename":
        (folder / "real").rename(folder / "genuine")
    if change == "no folder":
        folder = tmp_path / "nowhere"
    if change == "damage":
        for file in folder.rglob("*.png"):
            file.write_bytes(file.read_bytes()[:200])
    if change == "PostScript":
        for file in folder.rglob("*.png"):
            Image.new("RGB", (8, 8)).save(file, format="EPS")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(folder), "--out", "detector.pt", *options])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    said = capsys.readouterr().err
    assert caught.value.code == 2 and said.startswith("error: ") and len(said.splitlines()) == 1
    assert re.search(message, said) and not (tmp_path / "detector.pt").exists()


def test_it_does_not_wait_for_ever_for_a_batch_that_a_worker_could_not_send(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where shared memory is full: the worker prints a traceback, drops the batch and continues."""

    class Impatient(DataLoader):
        def __init__(self, *arguments: Any, timeout: float = 0, **options: Any) -> None:
            super().__init__(*arguments, timeout=min(timeout, 1), **options)

    def full(*_: Any) -> None:
        raise RuntimeError("unable to write to file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(torch.UntypedStorage, "_share_fd_cpu_", full)
    monkeypatch.setattr(torch.utils.data, "DataLoader", Impatient)
    monkeypatch.setattr(
        sys, "argv", [str(SCRIPT), str(save_people(tmp_path / "faces", 12)), "--out", str(tmp_path / "a")]
    )
    with pytest.raises(RuntimeError, match="DataLoader timed out"):
        runpy.run_path(str(SCRIPT), run_name="__main__")


def test_it_stays_short_enough_to_copy() -> None:
    assert len(SCRIPT.read_text().splitlines()) <= 80
