"""What version 0.1 wrote can be used: layers, networks with inserted layers, prepared data, caches, runs, scores."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

import evaluate
import train
from deepfake.common.texts import read_json
from deepfake.data import open_split
from deepfake.training.checkpoint import load_run
from panet_layers import EMAM, SCAM, insert_attention
from panet_layers.models import PANet
from tests.archives import unpack

ARCHIVE = Path(__file__).with_name("0.1.tar.xz")
LAYERS = {
    "emam": lambda: EMAM(16, 4),
    "scam": lambda: SCAM(16, 4),
    "cbam": lambda: SCAM(16, 4, mlp_bias=True, spatial_norm="batch"),
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stored")
    unpack(ARCHIVE, folder)
    return folder / "0.1"


def with_inserted_layers() -> nn.Module:
    last = nn.Sequential(nn.Conv2d(16, 8, 3, stride=2), nn.ReLU())
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), last).eval()
    images = torch.zeros(2, 3, 12, 10)
    insert_attention(model, ["1", "2"], lambda channels: EMAM(channels, 4), example_input=images)
    insert_attention(model, "2", lambda channels: SCAM(channels, 2), example_input=images)
    return model


@pytest.mark.parametrize("name", [*LAYERS, "inserted"])
def test_state_dicts_give_the_same_output(name: str, stored: Path) -> None:
    module = LAYERS[name]() if name in LAYERS else with_inserted_layers()
    saved = torch.load(stored / f"layers/{name}.pt")
    module.load_state_dict(saved["state_dict"])
    assert_same_output(module, saved)


@pytest.mark.parametrize("name", [*LAYERS, "inserted"])
def test_pickled_modules_give_the_same_output_and_load_state_dicts(name: str, stored: Path) -> None:
    saved = torch.load(stored / f"layers/{name}.pt")
    module = torch.load(stored / f"layers/{name}_module.pt", weights_only=False)
    assert_same_output(module, saved)
    module.load_state_dict(saved["state_dict"])


def test_inserted_layers_of_a_pickle_stay_when_other_hooks_come_and_go(
    stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = torch.load(stored / "layers/inserted.pt")
    monkeypatch.setattr(RemovableHandle, "next_id", 0)  # as in a new process; 0.1 kept hooks under these numbers
    model = torch.load(stored / "layers/inserted_module.pt", weights_only=False)
    for module in model.modules():
        for _ in range(100):
            module.register_forward_hook(lambda *_: None).remove()
    assert_same_output(model, saved)


def assert_same_output(module: nn.Module, saved: dict[str, Tensor]) -> None:
    torch.testing.assert_close(module.eval()(saved["x"]), saved["y"], rtol=1e-5, atol=1e-6)


def test_the_best_weights_of_a_run_load(stored: Path) -> None:
    model, config = load_run(stored / "run")
    assert isinstance(model, PANet) and config["best"]["epoch"] == 1
    again = PANet.from_pretrained(stored / "run/best")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_the_manifest_is_the_data_that_the_run_was_trained_on(stored: Path) -> None:
    config = read_json(stored / "run/config.json")
    images = open_split(str(stored / "data"), "train", 64)
    assert images.fingerprint == config["data"]["fingerprint"] and len(images) == 8


def test_evaluating_the_run_again_gives_its_scores(stored: Path, tmp_path: Path) -> None:
    evaluate.main([str(stored / "run"), "--data", str(stored / "data"), "--out", str(tmp_path), "--resamples", "0"])
    before, after = (read_scores(folder / "scores.csv") for folder in (stored / "evaluation", tmp_path))
    assert before.keys() == after.keys()
    assert after == pytest.approx(before, abs=1e-4)


def read_scores(path: Path) -> dict[str, float]:
    with open(path, newline="") as file:
        return {row["name"]: float(row["fake_probability"]) for row in csv.DictReader(file)}


@pytest.mark.parametrize("cached", [False, True])
def test_a_run_goes_on(cached: bool, stored: Path, tmp_path: Path) -> None:
    unpack(ARCHIVE, tmp_path)
    folder = tmp_path / "0.1"
    cache = ["--cache", str(folder / "cache")] if cached else []
    train.main(["--resume", "--out", str(folder / "run"), "--data", str(folder / "data"), "--epochs", "3", *cache])
    assert len((folder / "run/log.csv").read_text().splitlines()) == 4
