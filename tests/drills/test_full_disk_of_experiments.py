"""Drill: the disk is full, or read-only, for the commands that do several trainings, at their beginning and later."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("dlib", reason="finding faces in videos needs dlib-bin")

import ablate
import cross_validate
import does_it_help
import quickstart
import reproduce
from tests.deepfake.scripts import call
from tests.drills.small_disks import contents, empty, fill, half_written, read_only, small_disk

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("one_shot")]
TINY = "--variant tiny --epochs 1 --batch-size 4 --workers 0 --threads 1"
TRIAL = "--network test_resnet --image-size 32 --batch-size 4 --epochs 1 --seeds 2 --workers 0 --arms emam"
TABLE_ONE = "--seeds 1 --models panet --compressions c23 --no-estimate"

Command = Callable[[Path, Path], list[str]]
COMMANDS: dict[str, tuple[Callable[..., Any], Command]] = {
    "ablate": (
        ablate.main,
        lambda data, out: [
            *("--data", str(data / "noise"), "--out", str(out), "--cases", "none/none", "--seeds", "0", *TINY.split())
        ],
    ),
    "cross_validate": (cross_validate.main, lambda data, out: [str(out), "--epochs", "2", "--workers", "0"]),
    "does_it_help": (
        does_it_help.main,
        lambda data, out: ["--data", str(data / "pictures"), "--out", str(out), *TRIAL.split()],
    ),
    "quickstart": (quickstart.main, lambda data, out: ["--out", str(out), "--epochs", "1"]),
    "reproduce": (
        reproduce.main,
        lambda data, out: [
            *(str(data / "ffpp"), str(out), *TABLE_ONE.split()),
            *("--train", TINY, "--prepare", "--size 64 --workers 1"),
        ],
    ),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_an_experiment_on_a_full_disk_says_so_keeps_what_is_there_and_can_be_repeated(
    data: Path, tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Read-only from the beginning, full from the beginning, full a little later, and full when all is done."""
    monkeypatch.setattr(cross_validate, "FOLDS", 1)
    main, command = COMMANDS[name]
    with small_disk(tmp_path / "disk", 64) as disk:
        arguments = command(data, disk / "out")
        with read_only(disk):
            refused(main, capfd, arguments, "Read-only")
        for left in (0, 12_000, 30_000) if name == "does_it_help" else (0, 30_000, 5_000_000):
            fill(disk, left)
            refused(main, capfd, arguments, "No space left", "are free")
            assert not half_written(disk)
            empty(disk)
        code, _, errors = call(main, capfd, *arguments)
        assert code == 0, errors
        before = contents(disk)
        fill(disk)
        code, _, errors = call(main, capfd, *arguments)
        assert code in (0, 1) and not any("Traceback" in line for line in errors), errors
        empty(disk)
        assert contents(disk) == before
        assert call(main, capfd, *arguments)[0] == 0


def refused(main: Callable[..., Any], captured: Any, arguments: list[str], *reasons: str) -> None:
    """The command fails, and one line says why. reproduce.py's next line names the step that has failed."""
    code, _, errors = call(main, captured, *arguments)
    lines = [line for line in errors if line.startswith("error: ") and not line.startswith("error: step ")]
    assert code and len(lines) == 1 and any(reason in lines[0] for reason in reasons), errors
    assert not any("Traceback" in line for line in errors), errors
