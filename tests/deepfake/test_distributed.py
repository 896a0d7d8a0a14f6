"""Two processes train as one: joined batch statistics, the same gradients, every val image scored once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from deepfake.common.cli import UserError
from deepfake.data import open_split
from deepfake.dataset.images import to_unit_range
from deepfake.evaluating.metrics import binary_metrics
from deepfake.training.checkpoint import load_run
from deepfake.training.distributed import ProcessLost, join
from deepfake.training.sync_norm import SyncedBatchNorm2d, synchronise_batch_norm
from tests.deepfake import two_processes
from tests.deepfake.scripts import SCRIPTS, environment
from tests.deepfake.short_trainings import arguments, last_state, log_rows, train_small, write_images
from tests.deepfake.two_processes import (
    CPU,
    SHARES,
    detector,
    detector_loss,
    example,
    far_example,
    small_net,
    train_twice,
)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The results of each of two processes."""
    folder = tmp_path_factory.mktemp("two")
    mp.spawn(two_processes.run, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def close(got: Tensor, wanted: Tensor | None) -> None:
    assert wanted is not None
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shares", SHARES)
def test_synchronised_batch_norm_equals_one_process_on_the_joined_batch(
    ranks: list[dict[str, Any]], shares: str
) -> None:
    net = small_net()
    output, gradient = train_twice(net, *example())
    for rank, share in zip(ranks, SHARES[shares], strict=True):
        got = rank[shares]
        close(got["output"], output[share])
        close(got["input gradient"], gradient[share])
        for mine, parameter in zip(got["gradients"], net.parameters(), strict=True):
            close(mine, parameter.grad)
        assert got["state"].keys() == net.state_dict().keys()
        for key, value in net.state_dict().items():
            close(got["state"][key], value)


def test_gradients_of_the_wrapped_model_are_those_of_the_global_batch(ranks: list[dict[str, Any]]) -> None:
    net = small_net()
    images, weights = example()
    (net(images) * weights).mean().backward()
    for rank in ranks:
        for mine, parameter in zip(rank["parallel"], net.parameters(), strict=True):
            close(mine, parameter.grad)


def test_the_detectors_gradients_are_those_of_the_global_batch(ranks: list[dict[str, Any]]) -> None:
    model = detector()
    detector_loss(model, list(range(8))).backward()
    for rank in ranks:
        assert rank["panet"].keys() == dict(model.named_parameters()).keys()
        for name, parameter in model.named_parameters():
            close(rank["panet"][name], parameter.grad)


def test_variance_survives_a_mean_far_from_zero(ranks: list[dict[str, Any]]) -> None:
    joined = far_example().double()
    norm = nn.BatchNorm2d(4, momentum=1.0).double()
    expected = norm(joined)
    for rank, share in zip(ranks, SHARES["equal"], strict=True):
        output, variance = rank["far"]
        torch.testing.assert_close(variance.double(), norm.state_dict()["running_var"], rtol=1e-4, atol=0)
        torch.testing.assert_close(output.double(), expected[share].detach(), rtol=1e-3, atol=2e-3)


def test_the_sum_over_processes_is_differentiable(ranks: list[dict[str, Any]]) -> None:
    """d/dx of (1 + 2) * total^2, since the losses of both processes depend on every x."""
    for rank in ranks:
        assert rank["sum"][0].tolist() == [3.0, 6.0] and rank["sum"][1].tolist() == [18.0, 36.0]


def test_conversion_keeps_weights_keys_and_eval_outputs() -> None:
    net = small_net()
    train_twice(net, *example())
    state = {name: value.clone() for name, value in net.state_dict().items()}
    expected = net.eval()(example()[0])
    parameters = list(net.parameters())
    converted = synchronise_batch_norm(net, CPU)
    assert [type(module) for module in converted.modules()].count(SyncedBatchNorm2d) == 3
    assert all(one is other for one, other in zip(converted.parameters(), parameters, strict=True))
    assert converted.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in converted.state_dict().items())
    assert torch.equal(converted.eval()(example()[0]), expected)


def test_cuda_gets_torchs_own_synchronised_batch_norm() -> None:
    converted = synchronise_batch_norm(small_net(), torch.device("cuda"))
    assert sum(isinstance(module, nn.SyncBatchNorm) for module in converted.modules()) == 3


GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4711"


@pytest.mark.parametrize(
    ("error", "reported"),
    [
        (RuntimeError(GLOO), ProcessLost),
        (dist.DistBackendError("NCCL error: remote process exited"), ProcessLost),
        (RuntimeError("cannot read /home/gloor/gloo.png"), RuntimeError),
        (UserError("the loss is not finite"), UserError),
    ],
)
def test_only_a_lost_process_is_reported_as_one(
    error: Exception, reported: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name, answer in {"init_process_group": None, "get_rank": 0}.items():
        monkeypatch.setattr(dist, name, lambda *_, answer=answer, **__: answer)
    with pytest.raises(reported) as caught, join("cpu", "; continue"):
        raise error
    assert type(caught.value) is reported
    if reported is ProcessLost:
        assert str(caught.value).startswith("another process of this training has ended or cannot be reached (")
        assert str(caught.value).endswith("); continue") and "pair.cc" not in str(caught.value)


def torchrun(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    script = str(SCRIPTS / "train.py")
    return subprocess.run([*command, script, *options], env=environment(), capture_output=True, text=True)


@pytest.mark.slow
def test_torchrun_trains_with_two_processes(tmp_path: Path) -> None:
    """End to end: one log, resumable, and the AUC is that of every val image once."""
    images = write_images(tmp_path / "images")
    out = tmp_path / "run"
    done = torchrun(*arguments(images, out, "--epochs", "1"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 1/1") == 1
    done = torchrun("--resume", "--out", str(out), "--epochs", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("resuming after epoch 1") == 1
    assert [row["epoch"] for row in log_rows(out)] == ["1", "2"] and last_state(out)["progress"]["epoch"] == 2

    model, config = load_run(out)
    val = open_split(images, "val", 64)
    with torch.no_grad():
        logits = model(to_unit_range(torch.stack([val[i][0] for i in range(len(val))]))).logits[:, 0]
    auc = binary_metrics(val.labels, logits.double().sigmoid().numpy())["auc"]
    assert config["processes"] == 2 and auc == pytest.approx(config["best"]["val"]["auc"])


@pytest.mark.slow
def test_two_processes_see_the_batch_of_one(tmp_path: Path) -> None:
    """Batch statistics of the stem, which no dropout reaches, agree after a step; an error is reported once."""
    images = write_images(tmp_path / "images")
    recipe = ("--epochs", "1", "--batch-size", "24", "--model", "xception")
    done = torchrun(*arguments(images, tmp_path / "two", *recipe))
    assert done.returncode == 0, done.stderr
    train_small(images, tmp_path / "one", *recipe)
    one, two = (last_state(tmp_path / name)["model"]["encoder.bn1.running_var"] for name in ("one", "two"))
    torch.testing.assert_close(one, two, rtol=1e-5, atol=0)

    refused = torchrun(*arguments(images, tmp_path / "odd", "--batch-size", "7"))
    assert refused.returncode == 1
    assert refused.stderr.count("error: --batch-size 7 cannot be split over 2 processes") == 1
