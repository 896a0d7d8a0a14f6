"""A run that was killed and resumed ends where an uninterrupted one does, to the last bit (on the CPU)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import train
from deepfake.common import cli
from deepfake.common.cli import UserError
from deepfake.common.lock import locked
from deepfake.dataset.images import Images
from deepfake.training import loop
from deepfake.training.log import write_csv
from deepfake.training.run import LOCK, Run
from tests.deepfake.scripts import SCRIPTS, environment
from tests.deepfake.small_run import arguments, assert_same_run, last_state, log_rows, train_small, write_images


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the program handles it, so the disk stays as it is at that moment."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def finished(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_small(folder, tmp_path_factory.mktemp("runs") / "run")


def kill_at_call(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int) -> None:
    """Let ``owner.name`` work until its ``call``-th call, which is killed instead."""
    original, calls = getattr(owner, name), 0

    def counting(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise Killed
        return original(*args)

    monkeypatch.setattr(owner, name, counting)


@pytest.mark.parametrize(
    ("owner", "name", "call", "options"),
    [
        (loop, "train_step", 1, ()),
        (loop, "train_step", 6, ()),  # the last step of the second epoch: that epoch starts again
        (loop, "train_step", 6, ("--checkpoint-every", "2")),  # ... or goes on from its second step
        (train, "validate", 2, ()),
        (Run, "save", 3, ()),  # after the first epoch's best weights, before the state that knows of them
        (Run, "save", 5, ()),
    ],
    ids=["first step", "last step", "last step, checkpoints every two", "validation", "after best", "after epoch 2"],
)
def test_resuming_after_a_kill_changes_nothing(
    folder: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    owner: Any, name: str, call: int, options: tuple[str, ...],
) -> None:  # fmt: skip
    out = tmp_path / "run"
    with monkeypatch.context() as patched:
        kill_at_call(patched, owner, name, call)
        with pytest.raises(Killed):
            train_small(folder, out, *options)
    torch.manual_seed(12345)  # as in another process: no generator is where it was
    train.main(["--resume", "--out", str(out)])
    assert_same_run(out, finished)


@pytest.mark.parametrize("options", [("--amp", "bf16"), ("--no-channels-last", "--model", "recce")], ids=" ".join)
def test_resuming_with_other_options_changes_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    whole = train_small(folder, tmp_path / "whole", *options)
    with monkeypatch.context() as patched:
        kill_at_call(patched, loop, "train_step", 5)
        with pytest.raises(Killed):
            train_small(folder, tmp_path / "run", "--checkpoint-every", "1", *options)
    train.main(["--resume", "--out", str(tmp_path / "run")])
    assert_same_run(tmp_path / "run", whole)


def test_more_epochs_equal_a_longer_run(folder: Path, finished: Path, tmp_path: Path) -> None:
    out = train_small(folder, tmp_path / "run", "--epochs", "1")
    train.main(["--resume", *arguments(folder, out)])  # its own arguments again, but for --epochs
    assert_same_run(out, finished)
    assert json.loads((out / "config.json").read_text())["arguments"]["epochs"] == 2


def test_resuming_a_finished_run_keeps_it(folder: Path, finished: Path) -> None:
    before = (finished / "last.pt").read_bytes()
    partial = [finished / ".last.pt.7.tmp", finished / "best" / ".model.safetensors.7.tmp"]  # as SIGKILL leaves them
    for file in partial:
        file.write_bytes(before[:9])
    train.main(["--resume", "--out", str(finished)])
    assert (finished / "last.pt").read_bytes() == before and not any(file.exists() for file in partial)


@pytest.mark.parametrize(("owner", "moment"), [(loop, "train_step"), (train, "validate")], ids=["step", "validation"])
def test_ctrl_c_leaves_a_state_to_resume_and_exits_with_130(
    folder: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, moment: str
) -> None:
    original, calls = getattr(owner, moment), 0

    def interrupted(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return original(*args)

    with monkeypatch.context() as patched:
        patched.setattr(owner, moment, interrupted)
        with pytest.raises(SystemExit) as caught:
            cli.run(lambda: train.main(arguments(folder, tmp_path / "run")))
    assert caught.value.code == 130
    progress = last_state(tmp_path / "run")["progress"]
    assert (progress["epoch"], progress["step"]) == ((0, 3) if moment == "train_step" else (1, 3))
    train.main(["--resume", "--out", str(tmp_path / "run")])
    assert_same_run(tmp_path / "run", finished)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--lr", "0.1"), "--lr 0.1 differs from the run's 0.0"),
        (("--batch-size", "4"), "--batch-size 4 differs from the run's 8"),
        (("--emam", "final"), "--emam final differs from the run's common"),
        (("--seed", "3"), "--seed 3 differs from the run's 0"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_another_recipe_is_refused_by_name(finished: Path, options: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        train.main(["--resume", "--out", str(finished), *options])
    assert caught.value.exit_code == 2


def test_other_images_are_refused_and_moved_ones_are_not(finished: Path, folder: Path, tmp_path: Path) -> None:
    moved = write_images(tmp_path / "moved")
    train.main(["--resume", "--out", str(finished), "--data", str(moved)])
    (moved / "train" / "real" / "000.png").unlink()
    with pytest.raises(UserError, match=r"--data .*moved does not hold the images") as caught:
        train.main(["--resume", "--out", str(finished), "--data", str(moved)])
    assert caught.value.exit_code == 2
    train.main(["--resume", "--out", str(finished), "--data", str(folder)])


def test_nothing_to_resume_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--resume: .*nothing holds no run"):
        train.main(["--resume", "--out", str(tmp_path / "nothing")])


def test_a_damaged_state_is_named(folder: Path, tmp_path: Path) -> None:
    out = train_small(folder, tmp_path / "run", "--epochs", "1", "--model", "xception")
    content = (out / "last.pt").read_bytes()
    (out / "last.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"last\.pt"):
        train.main(["--resume", "--out", str(out)])
    torch.save({"weights": torch.zeros(3)}, out / "last.pt")
    with pytest.raises(UserError, match=r"last\.pt does not fit"):
        train.main(["--resume", "--out", str(out)])
    (out / "last.pt").unlink()
    with pytest.raises(UserError, match=r"last\.pt is missing"):
        train.main(["--resume", "--out", str(out)])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("lr", "fast", "--lr: 'fast' is not a number above 0"),
        ("epochs", 2.5, "--epochs: '2.5' is not a whole number"),
        ("image_size", None, "--image-size: 'None' is not a whole number"),
        ("variant", "huge", "--variant: invalid choice: 'huge'"),
        ("amp", "fp8", "--amp: invalid choice: 'fp8'"),
        ("lambda_metric", -1, "--lambda-metric: '-1' is not a number of at least 0"),
        ("channels_last", "yes", "--channels-last"),
        ("data", 5, "5: no such folder"),
    ],
    ids=lambda value: str(value)[:12],
)
def test_a_damaged_config_is_told_as_a_bad_argument(
    finished: Path, tmp_path: Path, name: str, value: Any, message: str
) -> None:
    saved = json.loads((finished / "config.json").read_text())
    saved["arguments"][name] = value
    (tmp_path / "config.json").write_text(json.dumps(saved))
    with pytest.raises(UserError, match=message):
        train.main(["--resume", "--out", str(tmp_path)])


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("optimizer", 5),
        ("progress", {"best": []}),
        ("progress", {"step": "two"}),
        ("progress", {"history": []}),
        ("progress", {"epoch": "two"}),
    ],
    ids=str,
)
def test_a_state_that_makes_no_sense_is_named(finished: Path, tmp_path: Path, part: str, value: Any) -> None:
    state = last_state(finished)
    state[part] = state[part] | value if isinstance(value, dict) else value
    torch.save(state, tmp_path / "last.pt")
    (tmp_path / "config.json").write_bytes((finished / "config.json").read_bytes())
    with pytest.raises(UserError, match=r"last\.pt does not fit"):
        train.main(["--resume", "--out", str(tmp_path)])


@pytest.mark.slow
def test_sigkill_in_the_middle_of_an_epoch(folder: Path, tmp_path: Path) -> None:
    """The real thing: processes, killed from outside again and again, against one left alone."""
    command = [sys.executable, str(SCRIPTS / "train.py")]
    recipe = ["--batch-size", "4", "--checkpoint-every", "2", "--threads", "2"]
    alone = [*command, *arguments(folder, tmp_path / "alone", *recipe)]
    subprocess.run(alone, env=environment(), check=True, capture_output=True)
    out = tmp_path / "killed"
    first, again = [*command, *arguments(folder, out, *recipe)], [*command, "--resume", "--out", str(out)]
    for command, epoch, step in [(first, 0, 2), (again, 1, 2)]:
        process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL)
        wait_for(process, out, epoch, step)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    subprocess.run(again, env=environment(), check=True, capture_output=True)
    assert_same_run(out, tmp_path / "alone")
    assert len(log_rows(out)) == 2


def wait_for(process: subprocess.Popen[bytes], out: Path, epoch: int, step: int, seconds: float = 300) -> None:
    """Until last.pt stands at that epoch and step or later."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, f"ended by itself with exit code {process.returncode}"
        if (out / "last.pt").exists():
            progress = last_state(out)["progress"]
            if (progress["epoch"], progress["step"]) >= (epoch, step):
                return
        time.sleep(0.02)
    raise TimeoutError(f"{out} never reached epoch {epoch}, step {step}")


def test_a_second_training_in_the_same_run_is_refused(finished: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    before = (out / "last.pt").read_bytes()
    with locked(out / LOCK, "taken"), pytest.raises(UserError, match="another training is writing there") as told:
        train.main(["--resume", "--out", str(out), "--epochs", "3"])
    assert told.value.exit_code == 2 and (out / "last.pt").read_bytes() == before
    train.main(["--resume", "--out", str(out), "--epochs", "3"])


def test_waiting_for_images_is_measured(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Images.__getitem__
    monkeypatch.setattr(Images, "__getitem__", lambda self, index: time.sleep(0.05) or slow(self, index))
    (first, second) = log_rows(train_small(folder, tmp_path / "run"))
    for row in (first, second):
        assert 0.05 * 24 / float(row["seconds"]) * 0.5 < float(row["waiting"]) < 1


def test_a_log_begun_without_a_column_goes_on(tmp_path: Path) -> None:
    write_csv(tmp_path / "log.csv", [{"epoch": 1}, {"epoch": 2, "waiting": 0.5}])
    assert (tmp_path / "log.csv").read_text().split() == ["epoch,waiting", "1,", "2,0.5"]
