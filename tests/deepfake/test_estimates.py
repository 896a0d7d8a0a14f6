"""The estimate of reproduce.py --plan: what of a training, an evaluation and reading it counts, and its error."""

from __future__ import annotations

import dataclasses
from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from deepfake.common.cli import UserError
from deepfake.reproducing import estimates, step_times
from deepfake.reproducing.reading_times import seconds_to_read, step_with_reading
from deepfake.training import settings as config
from deepfake.training.checkpoint import save_state
from deepfake.training.log import ESTIMATED_EPOCH, PARTS, RunLog
from deepfake.training.loop import train_step
from deepfake.training.run import build_model
from tests.deepfake.experiments import experiment_of
from tests.deepfake.tiny_runs import save_images


def test_the_estimate_counts_what_a_run_keeps(tmp_path):
    settings = config.settle({"variant": "tiny", "data": "x", "out": "x", "batch_size": 2})
    model = build_model(settings, pretrained=False)
    optimizer = torch.optim.Adam(model.parameters())
    sum(parameter.sum() for parameter in model.parameters()).backward()
    optimizer.step()
    save_state(tmp_path / "last.pt", {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    kept = (tmp_path / "last.pt").stat().st_size + weights
    assert kept == pytest.approx(estimates.measure(settings, 1).room, rel=0.1)


def test_the_estimate_decodes_a_video_of_about_the_mean_number_of_frames():
    tasks = [SimpleNamespace(count=count) for count in [50] * 72 + [12, 13] * 144 + [32] * 140]
    assert {task.count for task in estimates.samples(tasks)} == {32}


def test_the_estimate_counts_each_scoring_of_a_split():
    images = Counter(train=32, val=32, test=64)
    measured, settings = estimates.Measured(10.0, 1.0, 5), config.settle({"data": "x", "out": "x", "epochs": 3})
    plain, watched = (experiment_of("--processes", "2", *more) for more in ([], ["--also-chosen-on-test"]))
    assert estimates.estimate_run(plain, "train", settings, measured, images, 0.0) == (33.0, 5)
    assert estimates.estimate_run(watched, "train", settings, measured, images, 0.0) == (39.0, 5)
    assert estimates.estimate_run(watched, "evaluate", settings, measured, images, 0.0) == (6.0, 0)


def test_the_estimate_counts_reading_but_not_from_a_cache():
    """16 images a process and step, read in 0.5 s each by one reader: 8 s more for each of the 2 steps."""
    images = Counter(train=32, val=32, test=64)
    measured = estimates.Measured(10.0, 1.0, 5)
    settings = config.settle({"data": "x", "out": "x", "epochs": 1, "workers": 1, "device": "cpu"})
    plain, cached = (experiment_of("--processes", "2", *more) for more in ([], ["--cache"]))
    assert estimates.estimate_run(plain, "train", settings, measured, images, 0.5) == (11.0 + 16.0, 5)
    assert estimates.estimate_run(cached, "train", settings, measured, images, 0.5) == (11.0, 5)


def test_readers_work_while_a_gpu_computes():
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert step_with_reading(1.0, 32, 0.1, workers=4, processes=1, device=cuda) == 1.0
    assert step_with_reading(0.5, 32, 0.1, workers=4, processes=1, device=cuda) == pytest.approx(0.8)
    assert step_with_reading(0.5, 32, 0.1, workers=0, processes=1, device=cuda) == pytest.approx(3.7)
    assert step_with_reading(0.5, 32, 0.1, workers=4, processes=1, device=cpu) == pytest.approx(1.3)


def test_reading_is_timed_on_real_crops(tmp_path):
    data = save_images(tmp_path / "data")
    files = sorted(data.glob("*.png"))
    assert 0 < seconds_to_read(files, 64) < 1
    with pytest.raises(UserError, match="gone"):
        seconds_to_read([*files[:1], tmp_path / "gone.png"], 64)


def test_a_timed_step_is_the_trainings(monkeypatch):
    """Mixed precision and Adam's step are part of it."""
    seen = []

    def step(run, pixels, labels, stop):
        before = [parameter.detach().clone() for parameter in run.model.parameters()]
        values = train_step(run, pixels, labels, stop)
        moved = any(not torch.equal(a, b) for a, b in zip(before, run.model.parameters(), strict=True))
        seen.append((run.settings.amp, len(pixels), moved))
        return values

    monkeypatch.setattr(step_times, "train_step", step)
    settings = config.settle({"variant": "tiny", "data": "x", "out": "x", "batch_size": 2, "amp": "bf16"})
    found = step_times.measure(settings, 1)
    assert seen == [("bf16", 2, True)] * (1 + step_times.TIMED_STEPS)
    assert found.training > found.scoring > 0


@pytest.mark.slow
def test_several_processes_are_timed_together():
    settings = config.settle({"variant": "tiny", "data": "x", "out": "x", "batch_size": 4, "device": "cpu"})
    found = step_times.measure(settings, 2)
    assert found.training > 0 and found.room == step_times.run_size(build_model(settings, pretrained=False))
    with pytest.raises(UserError, match=r"a training step of 2 processes fails here: .*--device cuda:77"):
        step_times.measure(dataclasses.replace(settings, device="cuda:77"), 2)


def test_a_step_of_more_processes_than_devices_is_left_out_and_said(monkeypatch, capsys):
    def measure(settings, processes):
        if processes > 1:
            raise UserError("no such device")
        return estimates.Measured(float(settings.batch_size), 1.0, 1)

    monkeypatch.setattr(estimates, "measure", measure)
    settings = config.settle({"variant": "tiny", "data": "x", "out": "x", "batch_size": 8})
    assert estimates._measure(settings, 4).training == 2
    assert "what 4 processes wait for each other is not counted: no such device" in capsys.readouterr().out


def test_the_first_epoch_says_how_wrong_the_estimate_was(tmp_path, capsys, monkeypatch):
    row = {f"train_{name}": 0.5 for name in PARTS} | {"val_loss": 1.0, "val_acc": 0.5, "val_auc": 0.5, "best": 1}
    row |= {"lr": 0.1, "waiting": 0.0, "seconds": 15.0}
    monkeypatch.setenv(ESTIMATED_EPOCH, "10.0")
    log = RunLog(tmp_path, epochs=9, finished=2, main=True)
    log.epoch([row | {"epoch": 3}])
    log.epoch([row | {"epoch": 4}])
    log.close()
    said = [line for line in capsys.readouterr().out.splitlines() if "estimated" in line]
    assert said == ["an epoch: estimated 10.0 s, taken 15.0 s, ratio 1.50"]
