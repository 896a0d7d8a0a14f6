"""Files of a run: written completely or not at all, loaded without running code, named if wrong."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from deepfake.common.cli import UserError
from deepfake.common.files import make_folder, replacing, short_name, write_json
from deepfake.common.texts import read_json
from deepfake.training.checkpoint import load_run, load_state, save_best, save_state
from panet_layers.models import PANet


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    return PANet(variant="tiny").eval()


@pytest.fixture
def run(model: Any, tmp_path: Path) -> Path:
    """A run folder as train.py leaves it, as far as load_run reads it."""
    config = {"model": model.config, "image_size": 96, "arguments": {"lr": 1.0}, "data": {"description": "noise"}}
    write_json(tmp_path / "config.json", config)
    save_best(tmp_path, model, model.config, {"epoch": 3, "val": {"auc": 0.75}, "config": config})
    return tmp_path


class Code:
    """Makes a file when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.witness),)


def test_load_run_returns_the_model_and_its_config(run: Path, model: Any) -> None:
    loaded, config = load_run(run, "cpu")
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    torch.testing.assert_close(loaded(images).logits, model(images).logits)  # in another memory format
    assert not loaded.training
    assert config["image_size"] == 96 and config["best"] == {"epoch": 3, "val": {"auc": 0.75}}
    assert config["arguments"] == {"lr": 1.0}


def test_from_pretrained_loads_the_folder_best(run: Path, model: Any) -> None:
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    expected = model(images).logits
    assert torch.equal(PANet.from_pretrained(str(run / "best")).eval()(images).logits, expected)
    loaded, config = load_run(run / "best")
    torch.testing.assert_close(loaded(images).logits, expected)
    assert config["image_size"] == 96


def test_load_run_takes_a_save_pretrained_folder(model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "saved")
    loaded, config = load_run(tmp_path / "saved")
    assert config["image_size"] == 64 and config["model"]["variant"] == "tiny"
    assert torch.equal(loaded.state_dict()["classifier.weight"], model.classifier.weight)


def test_load_run_builds_the_baseline(tmp_path: Path) -> None:
    baseline = PANet.xception_baseline(variant="tiny")
    write_json(tmp_path / "config.json", {"model": baseline.config, "image_size": 64})
    save_best(tmp_path, baseline, baseline.config, {"epoch": 1})
    loaded, _ = load_run(tmp_path)
    assert loaded(torch.zeros(1, 3, 64, 64)).reconstruction is None


def test_channels_last_weights_are_stored_as_they_are(model: Any, tmp_path: Path) -> None:
    nhwc = PANet(variant="tiny").to(memory_format=torch.channels_last)
    nhwc.load_state_dict(model.state_dict())
    save_best(tmp_path, nhwc, nhwc.config, {"epoch": 1})
    with safe_open(tmp_path / "best" / "model.safetensors", framework="pt") as file:
        for name, tensor in model.state_dict().items():
            assert torch.equal(file.get_tensor(name), tensor), name


@pytest.mark.parametrize("trained_so", [False, True])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_model_is_in_nhwc_order_on_a_cpu_and_where_it_was_trained_so(
    run: Path, device: str, trained_so: bool
) -> None:
    config = read_json(run / "config.json")
    write_json(run / "config.json", config | {"arguments": {"channels_last": trained_so}})
    weight = load_run(run, device)[0].get_parameter("encoder.conv2.weight")
    assert weight.is_contiguous(memory_format=torch.channels_last) == (trained_so or device == "cpu")


def test_pickled_code_is_refused_and_never_run(run: Path) -> None:
    witness = run / "witness"
    torch.save({"model": Code(witness)}, run / "last.pt")
    with pytest.raises(UserError, match=r"last\.pt refused: .*holds code"):
        load_state(run / "last.pt")
    (run / "last.pt").write_bytes(pickle.dumps(Code(witness), protocol=2))
    with pytest.raises(UserError, match=r"last\.pt refused"):
        load_state(run / "last.pt")
    torch.save({"model": Code(witness)}, run / "best" / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.safetensors is not a safetensors file"):
        load_run(run)
    assert not witness.exists()


def test_pickled_weights_are_not_loaded(run: Path, model: Any) -> None:
    (run / "best" / "model.safetensors").unlink()
    torch.save(model.state_dict(), run / "best" / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"model\.safetensors is missing"):
        load_run(run)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "config.json: no such file"),
        ("{", "config.json is not JSON"),
        ("[1]", "config.json holds a list, wanted a JSON object"),
        ("{}", "config.json has no model arguments"),
        ('{"model": {"variant": "huge"}}', "config.json describes no model of this version: .*huge"),
        ('{"model": {"colour": 1}}', "config.json describes no model of this version: .*colour"),
        ('{"model": {"variant": "tiny"}, "image_size": 1}', r"config\.json: image size 1 \(wanted 64 pixels or more"),
        ('{"model": {"variant": "tiny"}, "image_size": "x"}', r"config\.json: image size 'x'"),
        ('{"model": {"variant": "tiny", "scam": null}}', r"model\.safetensors does not fit its model: .*scam"),
    ],
)
def test_a_wrong_config_is_named(run: Path, content: str | None, message: str) -> None:
    (run / "config.json").unlink()
    if content is not None:
        (run / "config.json").write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        load_run(run)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_weights_of_another_shape_are_named(run: Path, model: Any) -> None:
    weights = {**model.state_dict(), "classifier.weight": torch.zeros(1, 7)}
    save_file(weights, run / "best" / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.safetensors does not fit its model: .*classifier\.weight"):
        load_run(run)


def test_a_path_that_is_no_run_is_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere does not exist"):
        load_run(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"config\.json is a file: wanted a run folder"):
        load_run(run / "config.json")


def test_a_state_keeps_every_bit(tmp_path: Path) -> None:
    state: dict[str, Any] = {"weights": torch.randn(5, dtype=torch.float64)}
    state["progress"] = {"sums": [0.1 + 0.2], "best": (1.0, 2.0)}
    save_state(tmp_path / "last.pt", state)
    loaded = load_state(tmp_path / "last.pt")
    assert torch.equal(loaded["weights"], state["weights"]) and loaded["progress"] == state["progress"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"old": True})
    with pytest.raises(RuntimeError), replacing(path) as file:
        file.write(b"half of")
        raise RuntimeError("killed")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot write .*value\.json: No space left on device"):
        write_json(path, {"new": True})
    assert read_json(path) == {"old": True} and [file.name for file in tmp_path.iterdir()] == ["value.json"]


@pytest.mark.parametrize("name", ["file/value.json", "x" * 256])
def test_an_impossible_path_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=f"cannot write .*{name}: "):
        write_json(tmp_path / name, {})


def test_a_name_as_long_as_the_file_system_allows_can_be_written(tmp_path: Path) -> None:
    write_json(tmp_path / ("x" * 255), {"long": True})
    assert read_json(tmp_path / ("x" * 255)) == {"long": True}


def test_a_name_that_is_too_long_is_cut_and_stays_distinct() -> None:
    assert short_name("x" * 255) == "x" * 255 and short_name("ä" * 127) == "ä" * 127
    names = [short_name(f"{'ä' * 200}{number}") for number in range(9)]
    assert len(set(names)) == 9 and all(len(name.encode()) <= 255 and name[:100] == "ä" * 100 for name in names)
    assert short_name("x" * 30, 20) == short_name("x" * 30, 20) != short_name("x" * 31, 20)


def test_a_read_only_folder_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UserError, match=f"cannot write to the folder {tmp_path}"):
        make_folder(tmp_path)


def test_a_full_disk_is_reported_and_keeps_the_old_state(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="a limit on file sizes simulates a full disk")
    path, limits = tmp_path / "last.pt", resource.getrlimit(resource.RLIMIT_FSIZE)
    save_state(path, {"step": 1})
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"cannot write .*last\.pt: File too large"):
            save_state(path, {"step": 2, "weights": torch.zeros(1_000_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert load_state(path) == {"step": 1} and os.listdir(tmp_path) == ["last.pt"]


def test_the_new_file_takes_its_place_only_when_complete(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"old": True})
    with replacing(path) as file:
        file.write(json.dumps({"new": True}).encode())
        file.flush()
        assert read_json(path) == {"old": True}
    assert read_json(path) == {"new": True}
