"""train.py as a user sees it: the files of a run, the effect of the options, one clear line for each error."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import train
from deepfake.common import cli
from deepfake.common.cli import UserError
from deepfake.data import open_split
from deepfake.dataset import batches
from deepfake.dataset.images import to_unit_range
from deepfake.evaluating.metrics import binary_metrics
from deepfake.training import loop
from deepfake.training.checkpoint import load_run
from deepfake.training.settings import defaults, settle
from tests.deepfake.scripts import SCRIPTS, environment
from tests.deepfake.short_trainings import arguments, last_state, log_rows, train_small, write_images


def test_a_run_leaves_config_log_and_checkpoints(finished_run: Path, noise_images: Path) -> None:
    config = json.loads((finished_run / "config.json").read_text())
    assert config["arguments"]["lr"] == defaults("tiny")["lr"] and config["arguments"]["data"] == str(noise_images)
    assert config["model"]["variant"] == "tiny" and config["image_size"] == 64
    assert config["data"]["fingerprint"] == open_split(noise_images, "train", 64).fingerprint
    assert config["arguments"]["channels_last"] is True  # chosen for the CPU, and kept where it is resumed
    assert config["versions"]["torch"] == torch.__version__
    rows = log_rows(finished_run)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(0 <= float(row["train_acc"]) <= 1 for row in rows)
    assert last_state(finished_run)["progress"]["epoch"] == 2
    assert list((finished_run / "tensorboard").iterdir())
    assert not list(finished_run.rglob("*.tmp"))


def test_total_loss_is_the_weighted_sum_of_its_parts(finished_run: Path) -> None:
    for row in log_rows(finished_run):
        parts = (float(row[f"train_{name}"]) for name in ("classification", "reconstruction", "metric"))
        weighted = sum(weight * part for weight, part in zip((1, 0.1, 0.1), parts, strict=True))
        assert float(row["train_loss"]) == pytest.approx(weighted, rel=1e-5)


def test_best_is_the_epoch_of_the_highest_val_auc(finished_run: Path, noise_images: Path) -> None:
    """The AUC in the log equals that of the best weights on the val split, computed here."""
    model, config = load_run(finished_run)
    rows = log_rows(finished_run)
    best = max(float(row["val_auc"]) for row in rows)
    assert config["best"]["val"]["auc"] == best
    assert float(rows[config["best"]["epoch"] - 1]["val_auc"]) == best
    images = open_split(noise_images, "val", 64)
    with torch.no_grad():
        logits = model(to_unit_range(torch.stack([images[i][0] for i in range(len(images))]))).logits[:, 0]
    assert binary_metrics(images.labels, logits.sigmoid().double().numpy())["auc"] == pytest.approx(best)


def test_selection_prefers_auc_and_breaks_ties_by_loss(
    noise_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([(0.7, 0.5), (0.9, 0.6), (0.9, 0.4), (0.9, 0.5), (0.8, 0.1)])

    def given_scores(*_: Any) -> dict[str, float]:
        auc, loss = next(scores)
        return {"val_loss": loss, "val_acc": 0.5, "val_auc": auc}

    monkeypatch.setattr(train, "validate", given_scores)
    out = train_small(noise_images, tmp_path / "run", "--epochs", "5", "--model", "xception")
    assert [row["best"] for row in log_rows(out)] == ["1", "1", "1", "0", "0"]
    assert load_run(out)[1]["best"]["epoch"] == 3


def test_the_learning_rate_follows_the_papers_schedule(noise_images: Path, tmp_path: Path) -> None:
    paper = settle({"data": "d", "out": "o"})
    assert [loop.learning_rate(paper, epoch) for epoch in (0, 9, 10, 39)] == [2e-4, 2e-4, 1e-4, 2.5e-5]
    out = train_small(noise_images, tmp_path / "run", "--lr", "0.01", "--lr-step", "1", "--lr-gamma", "0.1")
    assert [float(row["lr"]) for row in log_rows(out)] == pytest.approx([0.01, 0.001])
    assert last_state(out)["optimizer"]["param_groups"][0]["lr"] == pytest.approx(0.001)


def test_the_defaults_are_the_papers() -> None:
    settings = settle({"data": "d", "out": "o"})
    assert (settings.epochs, settings.batch_size, settings.lr, settings.weight_decay) == (40, 32, 2e-4, 1e-5)
    assert (settings.image_size, settings.emam, settings.scam, settings.pretrained) == (299, "common", "final", True)


@pytest.mark.parametrize(("processes", "batch"), [(1, 24), (2, 48)])
def test_the_batch_of_a_process_is_multiplied(processes: int, batch: int) -> None:
    settings = settle({"data": "d", "out": "o", "batch_per_process": 24}).over(processes)
    assert (settings.batch_size, settings.batch_per_process) == (batch, None)
    assert settings.over(3) == settings


def test_one_size_of_the_batch_is_given() -> None:
    with pytest.raises(UserError, match="--batch-size is over all processes, --batch-per-process of each") as caught:
        settle({"data": "d", "out": "o", "batch_size": 32, "batch_per_process": 16})
    assert caught.value.exit_code == 2


def test_a_run_keeps_the_whole_batch(noise_images: Path, tmp_path: Path) -> None:
    small = ["--variant", "tiny", "--epochs", "1", "--workers", "0", "--threads", "1", "--device", "cpu"]
    train.main(["--data", str(noise_images), "--out", str(tmp_path), *small, "--batch-per-process", "8"])
    kept = json.loads((tmp_path / "config.json").read_text())["arguments"]
    assert (kept["batch_size"], kept["batch_per_process"]) == (8, None)
    train.main(["--out", str(tmp_path), "--resume", "--epochs", "2", "--batch-per-process", "8"])
    assert last_state(tmp_path)["progress"]["epoch"] == 2
    with pytest.raises(UserError, match=r"--batch-size 9 differs from the run's 8"):
        train.main(["--out", str(tmp_path), "--resume", "--batch-per-process", "9"])


@pytest.mark.parametrize(
    "options",
    [
        ("--model", "recce", "--flood", "0.04", "--clip-grad", "1"),
        ("--model", "xception", "--no-channels-last"),
        ("--emam", "none", "--scam", "guided", "--lambda-metric", "0"),
        ("--amp", "bf16"),
    ],
    ids=" ".join,
)
def test_each_option_trains_and_its_run_loads(noise_images: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    out = train_small(noise_images, tmp_path / "run", "--epochs", "1", *options)
    model, config = load_run(out)
    if "xception" in options:
        assert config["model"]["architecture"] == "xception"
    else:
        places = {name: config["arguments"][name] for name in ("emam", "scam")}
        assert {name: getattr(model, name) is None for name in places} == {k: v == "none" for k, v in places.items()}


def test_same_seed_same_weights_other_seed_other_weights(
    noise_images: Path, finished_run: Path, tmp_path: Path
) -> None:
    weights = [last_state(finished_run)["model"]["classifier.weight"]]
    for seed in ("0", "1"):
        out = train_small(noise_images, tmp_path / seed, "--seed", seed)
        weights.append(last_state(out)["model"]["classifier.weight"])
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_worker_processes_give_the_same_weights(noise_images: Path, finished_run: Path, tmp_path: Path) -> None:
    out = train_small(noise_images, tmp_path / "run", "--workers", "2")
    weights = [last_state(run)["model"]["classifier.weight"] for run in (out, finished_run)]
    assert torch.equal(*weights)


# --- batches


class Numbers:
    """A stand-in for a split: the first pixel of image i is i."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int, int]:
        return torch.tensor([index, 0], dtype=torch.uint8).expand(3, 1, 2), index % 2, index


@given(count=st.integers(8, 40), half=st.integers(1, 4), world=st.sampled_from([1, 2]), epoch=st.integers(0, 3))
def test_processes_share_each_global_batch(count: int, half: int, world: int, epoch: int) -> None:
    numbers: Any = Numbers(count)
    joined = batches.TrainBatches(numbers, 2 * half, 7, epoch)
    shares = [batches.TrainBatches(numbers, 2 * half, 7, epoch, rank, world) for rank in range(world)]
    seen: list[int] = []
    for step in range(len(joined)):
        together = sorted(index for share in shares for index in share[step][2].tolist())
        assert together == sorted(joined[step][2].tolist())
        seen += together
    assert len(seen) == len(set(seen)) == count // (2 * half) * (2 * half)


@given(count=st.integers(1, 40), batch=st.integers(1, 9), world=st.integers(1, 4))
def test_validation_sees_every_image_once(count: int, batch: int, world: int) -> None:
    numbers: Any = Numbers(count)
    shares = [batches.EvalBatches(numbers, batch, rank, world) for rank in range(world)]
    seen = [index for share in shares for step in range(len(share)) for index in share[step][2].tolist()]
    assert sorted(seen) == list(range(count))


def test_epochs_and_seeds_differ_in_order_and_flips() -> None:
    numbers: Any = Numbers(64)
    orders = {tuple(batches.TrainBatches(numbers, 8, seed, epoch).batches.flatten().tolist())
              for seed in (0, 1) for epoch in (0, 1)}  # fmt: skip
    assert len(orders) == 4
    epoch = batches.TrainBatches(numbers, 64, 0, 0)
    images, _, indices = epoch[0]
    flipped = images[:, 0, 0, 0] != indices
    assert torch.equal(flipped | (indices == 0), epoch.flips[indices] | (indices == 0)) and 16 < flipped.sum() < 48


# --- errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--batch-size", "0"), "--batch-size: '0' is not a whole number of at least 1"),
        (("--variant", "huge"), "--variant: invalid choice: 'huge'"),
        (("--emam", "middle"), "--emam: invalid choice: 'middle'"),
        (("--lr", "nan"), "--lr: 'nan' is not a number above 0"),
        (("--image-size", "32"), "--image-size 32: wanted at least 64"),
        (("--model", "recce", "--emam", "final"), "--model recce has no EMAM or SCAM"),
        (("--pretrained",), "--pretrained needs --variant paper"),
        (("--amp", "fp16"), "--amp fp16 needs a GPU"),
        (("--device", "abacus"), "--device abacus cannot be used here"),
        (("--data", ""), "--data: is empty"),
        (("--out", ""), "--out: is empty"),
        (("--colour",), "unrecognized arguments: --colour"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_arguments_exit_with_2(noise_images: Path, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        train_small(noise_images, tmp_path / "run", *options)
    assert caught.value.exit_code == 2 and not (tmp_path / "run").exists()


def test_missing_arguments_are_named(tmp_path: Path) -> None:
    for given_arguments, message in (([], "--data is required"), (["--data", "demo"], "--out is required"),
                                     (["--resume"], "--resume needs --out")):  # fmt: skip
        with pytest.raises(UserError, match=message) as caught:
            train.main(given_arguments)
        assert caught.value.exit_code == 2


def test_one_class_only_is_refused(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images")
    for file in (images / "train" / "fake").iterdir():
        file.unlink()
    with pytest.raises(UserError, match=r"train split has 12 real images and no fake"):
        train_small(images, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_batch_larger_than_the_train_split_is_refused(noise_images: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--batch-size 25 is more than the 24 images"):
        train_small(noise_images, tmp_path / "run", "--batch-size", "25")


@pytest.mark.parametrize("workers", ["0", "1"])
def test_an_unreadable_image_is_named(tmp_path: Path, workers: str) -> None:
    images = write_images(tmp_path / "images")
    broken = images / "train" / "real" / "003.png"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(UserError, match=r"003\.png") as caught:
        train_small(images, tmp_path / "run", "--workers", workers)
    assert "Traceback" not in str(caught.value)


def test_a_folder_that_cannot_be_written_is_named(noise_images: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot make the folder .*file/run") as caught:
        train_small(noise_images, tmp_path / "file" / "run")
    assert caught.value.exit_code == 2


def test_a_second_run_in_the_same_folder_is_refused(noise_images: Path, finished_run: Path) -> None:
    before = last_state(finished_run)["model"]["classifier.weight"]
    with pytest.raises(UserError, match="already holds a run: add --resume"):
        train_small(noise_images, finished_run)
    assert torch.equal(last_state(finished_run)["model"]["classifier.weight"], before)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(
    noise_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def poisoned(pixels: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return to_unit_range(pixels) * (np.nan if calls == 7 else 1)  # 3 steps and 2 batches of val are an epoch

    monkeypatch.setattr(loop, "to_unit_range", poisoned)
    with pytest.raises(UserError, match="not finite at epoch 2, step 2") as caught:
        train_small(noise_images, tmp_path / "run")
    assert caught.value.exit_code == 1
    state = last_state(tmp_path / "run")
    assert state["progress"]["epoch"] == 1 and all(torch.isfinite(value).all() for value in state["model"].values())


def test_weights_that_are_not_finite_are_not_saved(noise_images: Path, tmp_path: Path) -> None:
    """One step of an absurd length: its loss was finite, so only the weights show it."""
    with pytest.raises(UserError, match="not finite at epoch 1, step 1: training diverged"):
        train_small(noise_images, tmp_path / "run", "--lr", "1e39", "--batch-size", "24")
    assert all(torch.isfinite(value).all() for value in last_state(tmp_path / "run")["model"].values())


def test_without_imagenet_weights_the_error_names_no_pretrained(
    noise_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("timm.create_model", offline)
    with pytest.raises(UserError, match=r"no route to host.*--no-pretrained"):
        train.main(
            ["--data", str(noise_images), "--out", str(tmp_path / "run"), "--batch-size", "8", "--device", "cpu"]
        )
    assert not (tmp_path / "run").exists()


def test_without_tensorboard_the_run_goes_on(
    noise_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    out = train_small(noise_images, tmp_path / "run", "--epochs", "1", "--model", "xception")
    assert "tensorboard is not installed" in capsys.readouterr().err
    assert len(log_rows(out)) == 1


def test_a_folder_that_tensorboard_cannot_use_ends_nothing(
    noise_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/tensorboard").write_text("in the way")
    out = train_small(noise_images, tmp_path / "run", "--epochs", "1", "--model", "xception")
    (note,) = [line for line in capsys.readouterr().err.splitlines() if "TensorBoard" in line]
    assert note.startswith("note: no TensorBoard log: ") and len(log_rows(out)) == 1


@pytest.mark.parametrize("failing", ["write", "flush", "close"])
def test_a_disk_that_is_full_for_tensorboard_ends_nothing(
    noise_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    failing: str,
) -> None:  # fmt: skip
    record_writer = pytest.importorskip("tensorboard.summary.writer.record_writer")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(record_writer.RecordWriter, failing, full)
    out = train_small(noise_images, tmp_path / "run", "--model", "xception")
    errors = capsys.readouterr().err
    assert len([line for line in errors.splitlines() if "note: no TensorBoard log" in line]) == 1
    assert "Traceback" not in errors and "No space left on device" in errors
    assert len(log_rows(out)) == 2 and load_run(out)


def test_the_command_prints_one_line_and_its_exit_code(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPTS / "train.py")]
    command += arguments(tmp_path / "nowhere", tmp_path / "run")
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == f"error: {done.stderr.removeprefix('error: ').strip()}\n" and "nowhere" in done.stderr


@pytest.mark.parametrize(
    ("error", "code"), [(UserError("a\nb"), 1), (UserError("bad", 2), 2), (KeyboardInterrupt(), 130)]
)
def test_run_turns_errors_into_exit_codes(error: BaseException, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(SystemExit) as caught:
        cli.run(fail)
    assert caught.value.code == code and len(capsys.readouterr().err.splitlines()) == 1


def test_a_file_name_that_is_not_unicode_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.run(lambda: print("odd\udcff"))
    assert caught.value.code == 0 and capsys.readouterr().out == "odd\\udcff\n"


def test_help_shows_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        train.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert caught.value.code == 0 and f"default: 0.0002; tiny: {defaults('tiny')['lr']}" in text
