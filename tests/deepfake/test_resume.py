"""A killed and resumed run ends with the weights of an uninterrupted one, to the last bit (on the CPU)."""

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
from deepfake.data import open_split
from deepfake.dataset.batches import TrainBatches
from deepfake.dataset.images import Images
from deepfake.training import loop
from deepfake.training.checkpoint import load_run
from deepfake.training.log import write_csv
from deepfake.training.run import LOCK, Run
from tests.archives import unpack
from tests.deepfake.scripts import REPOSITORY, SCRIPTS, call, environment
from tests.deepfake.short_trainings import arguments, assert_same_run, last_state, log_rows, train_small, write_images


class Killed(BaseException):
    """Stands for SIGKILL: the program does not handle it, so the files stay as they are at that moment."""


def kill_at_call(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int) -> None:
    """Let ``owner.name`` raise Killed at its ``call``-th call."""
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
        (loop, "train_step", 6, ("--checkpoint-every", "2")),  # ... or continues after its second step
        (train, "validate", 2, ()),
        (Run, "save", 3, ()),  # after the first epoch's best weights, before the state that knows of them
        (Run, "save", 5, ()),
    ],
    ids=["first step", "last step", "last step, checkpoints every two", "validation", "after best", "after epoch 2"],
)
def test_a_killed_and_resumed_run_equals_an_uninterrupted_one(
    noise_images: Path, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    owner: Any, name: str, call: int, options: tuple[str, ...],
) -> None:  # fmt: skip
    out = tmp_path / "run"
    with monkeypatch.context() as patched:
        kill_at_call(patched, owner, name, call)
        with pytest.raises(Killed):
            train_small(noise_images, out, *options)
    torch.manual_seed(12345)  # as in another process: random generators are in another state
    train.main(["--resume", "--out", str(out)])
    assert_same_run(out, finished_run)


@pytest.mark.parametrize("options", [("--amp", "bf16"), ("--no-channels-last", "--model", "recce")], ids=" ".join)
def test_resuming_equals_an_uninterrupted_run_with_other_options_too(
    noise_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    whole = train_small(noise_images, tmp_path / "whole", *options)
    with monkeypatch.context() as patched:
        kill_at_call(patched, loop, "train_step", 5)
        with pytest.raises(Killed):
            train_small(noise_images, tmp_path / "run", "--checkpoint-every", "1", *options)
    train.main(["--resume", "--out", str(tmp_path / "run")])
    assert_same_run(tmp_path / "run", whole)


def test_resuming_with_more_epochs_equals_a_longer_run(noise_images: Path, finished_run: Path, tmp_path: Path) -> None:
    out = train_small(noise_images, tmp_path / "run", "--epochs", "1")
    train.main(["--resume", *arguments(noise_images, out)])  # its own arguments, but more epochs
    assert_same_run(out, finished_run)
    assert json.loads((out / "config.json").read_text())["arguments"]["epochs"] == 2


def test_resuming_a_finished_run_keeps_it(noise_images: Path, finished_run: Path) -> None:
    before = (finished_run / "last.pt").read_bytes()
    partial = [
        finished_run / ".last.pt.7.tmp",
        finished_run / "best" / ".model.safetensors.7.tmp",
    ]
    for file in partial:
        file.write_bytes(before[:9])
    train.main(["--resume", "--out", str(finished_run)])
    assert (finished_run / "last.pt").read_bytes() == before and not any(file.exists() for file in partial)


@pytest.fixture
def run_of_best(noise_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Trains two epochs of which the given one is the best, and removes RUN/best."""

    def make(best: int) -> Path:
        aucs = iter((0.5, 0.4) if best == 1 else (0.4, 0.5))
        with monkeypatch.context() as patched:
            scores = {"val_loss": 0.5, "val_acc": 0.5}
            patched.setattr(train, "validate", lambda *_: scores | {"val_auc": next(aucs)})
            out = train_small(noise_images, tmp_path / "run", "--model", "xception")
        shutil.rmtree(out / "best")
        return out

    return make


def test_resuming_a_finished_run_without_best_does_not_claim_the_weights(run_of_best: Any, capsys: Any) -> None:
    out = run_of_best(1)
    capsys.readouterr()
    with pytest.raises(UserError, match=r"run/best is missing, and the weights of epoch 1, the best, are nowhere else"):
        train.main(["--resume", "--out", str(out)])
    assert "best: epoch" not in capsys.readouterr().out
    train.main(["--resume", "--out", str(out), "--epochs", "3"])
    assert "it will hold the best of the epochs to come" in capsys.readouterr().out
    assert load_run(out)[1]["best"]["epoch"] == 3 and log_rows(out)[2]["best"] == "1"


def test_best_is_written_again_where_the_last_epoch_was_the_best(run_of_best: Any) -> None:
    out = run_of_best(2)
    for lost in (None, "config.json", "model.safetensors"):
        if lost:
            (out / "best" / lost).unlink()
        train.main(["--resume", "--out", str(out)])
        weights = load_run(out)[0].state_dict()
        assert all(torch.equal(tensor, weights[name]) for name, tensor in last_state(out)["model"].items())
        assert load_run(out)[1]["best"]["epoch"] == 2


@pytest.mark.parametrize(
    ("owner", "moment", "signals", "code"),
    [
        (loop, "train_step", [signal.SIGINT], 130),
        (train, "validate", [signal.SIGINT], 130),
        (loop, "train_step", [signal.SIGTERM] * 3, 143),  # the scheduler's to every process, and torchrun's once more
    ],
    ids=["Ctrl-C in a step", "Ctrl-C in a validation", "SIGTERM"],
)
def test_a_signal_leaves_a_state_to_resume(
    noise_images: Path, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    owner: Any, moment: str, signals: list[signal.Signals], code: int,
) -> None:  # fmt: skip
    original, calls = getattr(owner, moment), 0

    def interrupted(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            for number in signals:
                os.kill(os.getpid(), number)
        return original(*args)

    with monkeypatch.context() as patched:
        patched.setattr(owner, moment, interrupted)
        with pytest.raises(SystemExit) as caught:
            cli.run(lambda: train.main(arguments(noise_images, tmp_path / "run")))
    assert caught.value.code == code
    progress = last_state(tmp_path / "run")["progress"]
    assert (progress["epoch"], progress["step"]) == ((0, 3) if moment == "train_step" else (1, 3))
    train.main(["--resume", "--out", str(tmp_path / "run")])
    assert_same_run(tmp_path / "run", finished_run)


def test_a_training_whose_reader_dies_keeps_its_steps_and_can_be_resumed(
    noise_images: Path, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    main, witness, plain = os.getpid(), tmp_path / "killed", Images.__getitem__
    out = tmp_path / "run"
    last = int(TrainBatches(open_split(noise_images, "train", 64), 8, seed=0, epoch=0).batches[2, 0])

    def dying(self: Images, index: int) -> Any:
        if os.getpid() != main and len(self) == 24 and index == last and not witness.exists():
            witness.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(self, index)

    monkeypatch.setattr(Images, "__getitem__", dying)
    code, _, errors = call(train.main, capsys, *arguments(noise_images, out, "--workers", "2"))
    assert code == 1 and witness.exists()
    (line,) = [line for line in errors if not line.startswith("note")]
    assert line.startswith("error: a process that reads images was killed by SIGKILL") and "--resume" in line
    progress = last_state(out)["progress"]
    assert (progress["epoch"], progress["step"]) == (0, 2), "the steps before the batch that was lost"
    train.main(["--resume", "--out", str(out)])
    assert_same_run(out, finished_run)


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
def test_resuming_with_another_setting_is_refused_by_name(
    finished_run: Path, options: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        train.main(["--resume", "--out", str(finished_run), *options])
    assert caught.value.exit_code == 2


def test_other_images_are_refused_and_moved_ones_are_not(
    finished_run: Path, noise_images: Path, tmp_path: Path
) -> None:
    moved = write_images(tmp_path / "moved")
    train.main(["--resume", "--out", str(finished_run), "--data", str(moved)])
    (moved / "train" / "real" / "000.png").unlink()
    with pytest.raises(UserError, match=r"--data .*moved does not hold the images") as caught:
        train.main(["--resume", "--out", str(finished_run), "--data", str(moved)])
    assert caught.value.exit_code == 2
    train.main(["--resume", "--out", str(finished_run), "--data", str(noise_images)])


def test_resuming_a_missing_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--resume: .*nothing holds no run"):
        train.main(["--resume", "--out", str(tmp_path / "nothing")])


def test_a_damaged_state_is_named(noise_images: Path, tmp_path: Path) -> None:
    out = train_small(noise_images, tmp_path / "run", "--epochs", "1", "--model", "xception")
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
def test_a_damaged_config_is_reported_as_a_bad_argument(
    finished_run: Path, tmp_path: Path, name: str, value: Any, message: str
) -> None:
    saved = json.loads((finished_run / "config.json").read_text())
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
def test_an_inconsistent_state_is_named(finished_run: Path, tmp_path: Path, part: str, value: Any) -> None:
    state = last_state(finished_run)
    state[part] = state[part] | value if isinstance(value, dict) else value
    torch.save(state, tmp_path / "last.pt")
    (tmp_path / "config.json").write_bytes((finished_run / "config.json").read_bytes())
    with pytest.raises(UserError, match=r"last\.pt does not fit"):
        train.main(["--resume", "--out", str(tmp_path)])


@pytest.mark.slow
def test_sigkill_in_the_middle_of_an_epoch(noise_images: Path, tmp_path: Path) -> None:
    """Processes that are really killed, twice, against an uninterrupted one."""
    command = [sys.executable, str(SCRIPTS / "train.py")]
    recipe = ["--batch-size", "4", "--checkpoint-every", "2", "--threads", "2"]
    alone = [*command, *arguments(noise_images, tmp_path / "alone", *recipe)]
    subprocess.run(alone, env=environment(), check=True, capture_output=True)
    out = tmp_path / "killed"
    first, again = [*command, *arguments(noise_images, out, *recipe)], [*command, "--resume", "--out", str(out)]
    for command, epoch, step in [(first, 0, 2), (again, 1, 2)]:
        process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL)
        wait_for(process, out, epoch, step)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    subprocess.run(again, env=environment(), check=True, capture_output=True)
    assert_same_run(out, tmp_path / "alone")
    assert len(log_rows(out)) == 2


def wait_for(process: subprocess.Popen[bytes], out: Path, epoch: int, step: int, seconds: float = 300) -> None:
    """Wait until last.pt is of that epoch and step or later."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, f"ended by itself with exit code {process.returncode}"
        if (out / "last.pt").exists():
            progress = last_state(out)["progress"]
            if (progress["epoch"], progress["step"]) >= (epoch, step):
                return
        time.sleep(0.02)
    raise TimeoutError(f"{out} never reached epoch {epoch}, step {step}")


def test_a_second_training_in_the_same_run_is_refused(finished_run: Path, noise_images: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished_run, out)
    before = (out / "last.pt").read_bytes()
    with locked(out / LOCK, "taken"), pytest.raises(UserError, match="another training is writing there") as caught:
        train.main(["--resume", "--out", str(out), "--epochs", "3"])
    assert caught.value.exit_code == 2 and (out / "last.pt").read_bytes() == before
    train.main(["--resume", "--out", str(out), "--epochs", "3"])


def test_a_run_keeps_the_memory_format_it_began_with(noise_images: Path, tmp_path: Path) -> None:
    run = train_small(noise_images, tmp_path / "run", "--no-channels-last")
    train.main(["--resume", "--out", str(run), "--epochs", "3"])
    assert json.loads((run / "config.json").read_text())["arguments"]["channels_last"] is False


def test_waiting_for_images_is_measured(noise_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Images.__getitem__
    monkeypatch.setattr(Images, "__getitem__", lambda self, index: time.sleep(0.05) or slow(self, index))
    (first, second) = log_rows(train_small(noise_images, tmp_path / "run"))
    for row in (first, second):
        assert 0.05 * 24 / float(row["seconds"]) * 0.5 < float(row["waiting"]) < 1


def test_a_log_without_a_newer_column_can_be_continued(tmp_path: Path) -> None:
    write_csv(tmp_path / "log.csv", [{"epoch": 1}, {"epoch": 2, "waiting": 0.5}])
    assert (tmp_path / "log.csv").read_text().split() == ["epoch,waiting", "1,", "2,0.5"]


def test_a_run_of_version_0_1_can_be_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unpack(REPOSITORY / "tests/stored/0.1.tar.xz", tmp_path)
    before = log_rows(tmp_path / "0.1/run")
    monkeypatch.chdir(tmp_path)
    train.main(["--resume", "--out", "0.1/run", "--epochs", "3"])
    after = log_rows(tmp_path / "0.1/run")
    assert after[:2] == before and after[2]["epoch"] == "3"
    load_run(tmp_path / "0.1/run")
