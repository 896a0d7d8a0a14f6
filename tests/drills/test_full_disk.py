"""Drill: the disk is full, or read-only. Commands say so in one line, leave nothing half-written, can be repeated."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("dlib", reason="finding faces in portraits needs dlib-bin")

import cache
import evaluate
import explain
import forge
import predict
import prepare
import train
from tests.deepfake.portraits_for_tests import save_people
from tests.deepfake.scripts import call
from tests.deepfake.short_trainings import arguments, assert_same_run, last_state, train_small
from tests.deepfake.tiny_runs import build, save_images, save_run
from tests.drills.small_disks import empty, fill, half_written, read_only, small_disk

pytestmark = pytest.mark.slow


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 64) as mounted:
        yield mounted


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, images, portraits and a forgery set to work on."""
    folder = tmp_path_factory.mktemp("made")
    save_run(folder / "run", build("panet"))
    save_images(folder / "images", splits=("train", "val", "test"))
    save_people(folder / "people")
    forge.main([str(folder / "people"), str(folder / "set"), "--frames", "2", "--size", "200", "--workers", "1"])
    shutil.copy(next((folder / "people").glob("*.png")), folder / "photo.png")
    return folder


Command = Callable[[Path, Path], list[str]]
COMMANDS: dict[str, tuple[Callable[..., Any], Command]] = {
    "cache": (cache.main, lambda made, out: [str(made / "images"), str(out), "--image-size", "64"]),
    "evaluate": (
        evaluate.main,
        lambda made, out: [str(made / "run"), "--data", str(made / "images"), "--out", str(out)],
    ),
    "explain": (explain.main, lambda made, out: [str(made / "run"), str(made / "photo.png"), "--out", str(out)]),
    "forge": (forge.main, lambda made, out: [str(made / "people"), str(out), "--frames", "2", "--size", "200"]),
    "predict": (predict.main, lambda made, out: [str(made / "run"), str(made / "photo.png"), "--annotate", str(out)]),
    "prepare": (prepare.main, lambda made, out: [str(made / "set"), str(out), "--frames", "2", "--workers", "1"]),
    "train": (train.main, lambda made, out: arguments(made / "images", out, "--epochs", "1")),
}


@pytest.mark.parametrize("left", [0, 30_000])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_on_a_full_disk_says_so_and_can_be_repeated(
    made: Path, disk: Path, capsys: Any, name: str, left: int
) -> None:
    main, command = COMMANDS[name]
    fill(disk, left)
    code, _, errors = call(main, capsys, *command(made, disk / "out"))
    lines = [line for line in errors if line.startswith("error: ")]
    assert code and len(lines) == 1 and ("No space left on device" in lines[0] or "are free" in lines[0]), errors
    assert not any("Traceback" in line for line in errors)
    assert not half_written(disk)
    empty(disk)
    code, _, errors = call(
        main, capsys, *command(made, disk / "out"), *(["--resume"] if _has_started(name, disk) else [])
    )
    assert code == 0, errors


def _has_started(name: str, disk: Path) -> bool:
    return name == "train" and (disk / "out/config.json").exists()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_on_a_read_only_disk_says_so(made: Path, disk: Path, capsys: Any, name: str) -> None:
    main, command = COMMANDS[name]
    with read_only(disk):
        code, _, errors = call(main, capsys, *command(made, disk / "out"))
    lines = [line for line in errors if line.startswith("error: ")]
    assert code and len(lines) == 1 and ("Read-only" in lines[0] or "cannot write" in lines[0]), errors


def test_a_training_on_a_full_disk_keeps_its_last_good_checkpoint(
    noise_images: Path, disk: Path, tmp_path: Path, capsys: Any
) -> None:
    whole, out = train_small(noise_images, tmp_path / "whole", "--epochs", "3"), disk / "run"
    train_small(noise_images, out, "--epochs", "1")
    before = last_state(out)["progress"]
    fill(disk, 10_000)
    code, _, errors = call(train.main, capsys, "--resume", "--out", out, "--epochs", 3)
    assert code == 1 and "No space left on device" in errors[-1], errors
    assert last_state(out)["progress"] == before
    empty(disk)
    train.main(["--resume", "--out", str(out), "--epochs", "3"])
    assert_same_run(out, whole)
