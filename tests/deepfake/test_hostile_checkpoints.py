"""Checkpoints from strangers: no code runs, no memory is filled; one line says what is wrong."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import evaluate
import explain
import export
import predict
import train
from deepfake.common.cli import UserError
from deepfake.common.saved import load_saved
from deepfake.training.checkpoint import load_run, load_state
from tests.deepfake.scripts import call
from tests.deepfake.tiny_runs import build, save_run


class Code:
    """Makes a folder when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.witness),)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return save_run(tmp_path / "run", build("xception"))


def refusal(run: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_run(run)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700
    return str(caught.value)


@pytest.mark.parametrize("place", ["last.pt", "best/model.safetensors", "model.safetensors", "config.json"])
@pytest.mark.parametrize("written", ["torch.save", "pickle", "legacy"])
def test_no_command_runs_a_checkpoints_code(run: Path, tmp_path: Path, capsys: Any, place: str, written: str) -> None:
    witness, file = tmp_path / "witness", run / place
    if written == "pickle":
        file.write_bytes(pickle.dumps(Code(witness)))
    else:
        torch.save({"model": Code(witness)}, file, _use_new_zipfile_serialization=written == "torch.save")
    for main, *arguments in (
        (train.main, "--resume", "--out", run),
        (evaluate.main, run, "--data", "demo"),
        (predict.main, run, tmp_path),
        (explain.main, run, tmp_path, "--out", tmp_path / "seen"),
        (export.main, run, "--out", tmp_path / "a.onnx"),
    ):
        if place == "last.pt" and main is not train.main:
            continue  # the others do not read it
        code, _, errors = call(main, capsys, *arguments)
        assert code in (1, 2) and len(errors) == 1 and errors[0].startswith("error: "), (main, errors)
    assert not witness.exists()


# last.pt


def bomb(file: Path, size: int, **options: Any) -> Path:
    """What torch.save writes for a tensor of zeros of `size` bytes, with its members compressed."""
    torch.save({"model": torch.zeros(16, dtype=torch.uint8)}, file)
    with zipfile.ZipFile(file) as members:
        content = {name: members.read(name) for name in members.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as members:
        for name, part in content.items():
            members.writestr(name, b"\0" * size if "/data/" in name else part)
    return file


def test_a_zip_bomb_is_refused_before_it_is_read(tmp_path: Path) -> None:
    file = bomb(tmp_path / "last.pt", 50_000_000)
    assert file.stat().st_size < 100_000
    with pytest.raises(UserError, match=r"last\.pt refused: its members are compressed"):
        load_state(file)


def test_a_tensor_larger_than_its_file_is_refused(tmp_path: Path) -> None:
    torch.save({"model": torch.zeros(1).expand(10**12)}, tmp_path / "last.pt")
    with pytest.raises(UserError, match=r"last\.pt refused: a tensor in it is larger than what is stored of it"):
        load_state(tmp_path / "last.pt")


def test_a_tensor_without_numbers_is_refused(tmp_path: Path) -> None:
    torch.save({"model": torch.zeros(2, device="meta")}, tmp_path / "last.pt")
    with pytest.raises(UserError, match=r"last\.pt refused: a tensor in it is larger than what is stored of it"):
        load_state(tmp_path / "last.pt")


def test_a_sparse_tensor_is_refused(tmp_path: Path) -> None:
    torch.save({"model": torch.zeros(10**6, 10**6, layout=torch.sparse_coo)}, tmp_path / "last.pt")
    with pytest.raises(UserError, match=r"last\.pt refused: "):
        load_state(tmp_path / "last.pt")


def test_weights_that_several_names_share_are_stored_once_and_load(tmp_path: Path) -> None:
    weight = torch.arange(10_000.0)
    torch.save({"model": {f"layer{i}.weight": weight for i in range(50)}}, tmp_path / "last.pt")
    assert (tmp_path / "last.pt").stat().st_size < 100_000
    loaded = load_saved(tmp_path / "last.pt")["model"]
    assert len(loaded) == 50 and all(torch.equal(tensor, weight) for tensor in loaded.values())


@pytest.mark.parametrize("first_format", [False, True])
def test_a_long_name_is_refused_at_once(tmp_path: Path, first_format: bool) -> None:
    """torch would look for hours for some words in its error message, which quotes the name."""
    file, name = tmp_path / "last.pt", b"x" * 10**6
    torch.save({"model": Code(tmp_path / "witness")}, file, _use_new_zipfile_serialization=not first_format)
    if first_format:
        file.write_bytes(file.read_bytes().replace(b"\nmkdir\n", b"\n" + name + b"\n"))
    else:
        with zipfile.ZipFile(file) as members:
            parts = {part: members.read(part) for part in members.namelist()}
        with zipfile.ZipFile(file, "w") as members:
            for part, content in parts.items():
                members.writestr(part, content.replace(b"\nmkdir\n", b"\n" + name + b"\n"))
    with pytest.raises(UserError, match=r"last\.pt refused: a text of 1000\d\d\d letters in it"):
        load_state(file)


def test_a_name_without_an_end_is_refused_at_once(tmp_path: Path) -> None:
    file = tmp_path / "last.pt"
    torch.save({"model": Code(tmp_path / "witness")}, file, _use_new_zipfile_serialization=False)
    file.write_bytes(file.read_bytes().partition(b"\nmkdir\n")[0] + b"\n" + b"x" * 20_000)
    with pytest.raises(UserError, match=r"last\.pt refused: damaged, or it holds code"):
        load_state(file)


def test_a_file_in_the_first_format_is_read(tmp_path: Path) -> None:
    torch.save({"step": torch.arange(3)}, tmp_path / "last.pt", _use_new_zipfile_serialization=False)
    assert load_state(tmp_path / "last.pt")["step"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("kind", "make"),
    [("a pipe", os.mkfifo), ("a folder", os.mkdir), ("a device", lambda path: os.symlink("/dev/zero", path))],
)
@pytest.mark.parametrize("name", ["config.json", "last.pt"])
def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path, name: str, kind: str, make: Any) -> None:
    make(tmp_path / name)
    with pytest.raises(UserError, match=rf"{name}: {kind}.* \(wanted a file\)"):
        load_run(tmp_path) if name == "config.json" else load_state(tmp_path / name)


MOMENTS = {"step": torch.tensor(1.0), "exp_avg": torch.zeros(3), "exp_avg_sq": torch.zeros(3)}


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("model", {"a": 1}),
        ("model", None),
        ("optimizer", {"state": {0: MOMENTS}}),
        ("optimizer", {"state": {-1: MOMENTS}}),
        ("optimizer", {"state": {0: {"step": 1}}}),
        ("optimizer", {"state": {10**6: MOMENTS}}),
        ("optimizer", {"state": []}),
        ("scaler", {"scale": "x"}),
        ("scaler", None),
        ("progress", {"step": 2.5}),
        ("progress", {"step": True}),
        ("progress", {"step": 10**6}),
        ("progress", {"sums": [0.0]}),
        ("progress", {"sums": ["x"] * 5}),
        ("progress", {"seconds": None}),
        ("progress", {"best": [1.0, "x"]}),
        ("progress", {"history": [1, 2]}),
        ("progress", {"history": [{"epoch": 1, "best": 0}, {"epoch": 2, "best": 0}]}),
        ("progress", {"history": [{"epoch": 1, "best": 1, "more": 1}, {"epoch": 2, "best": 0}]}),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value)[:40],
)
def test_a_state_of_wrong_values_is_refused_before_training(
    finished_run: Path, tmp_path: Path, part: str, value: Any
) -> None:
    state = torch.load(finished_run / "last.pt", weights_only=True)
    state[part] = state[part] | value if isinstance(value, dict) and part != "model" else value
    torch.save(state, tmp_path / "last.pt")
    (tmp_path / "config.json").write_bytes((finished_run / "config.json").read_bytes())
    with pytest.raises(UserError, match=r"last\.pt (does not fit|is after step)"):
        train.main(["--resume", "--out", str(tmp_path)])


def test_the_optimizers_settings_are_the_runs_own(finished_run: Path, noise_images: Path, tmp_path: Path) -> None:
    """Not what a checkpoint says: betas of 2 would be no Adam."""
    state = torch.load(finished_run / "last.pt", weights_only=True)
    state["optimizer"]["param_groups"] = [{"betas": "x", "params": None}]
    torch.save(state, tmp_path / "last.pt")
    (tmp_path / "config.json").write_bytes((finished_run / "config.json").read_bytes())
    (tmp_path / "best").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "best" / name).write_bytes((finished_run / "best" / name).read_bytes())
    train.main(["--resume", "--out", str(tmp_path), "--epochs", "3"])
    (group,) = torch.load(tmp_path / "last.pt", weights_only=True)["optimizer"]["param_groups"]
    assert group["betas"] == (0.9, 0.999)


# Weights and their configuration


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"architecture": "resnet50"}, "describes no model of this version: architecture must be one of"),
        ({"architecture": ["panet"]}, "describes no model of this version"),
        ({"architecture": "panet"}, "does not fit its model: "),
        ({"variant": "paper"}, "does not fit its model: "),
        ({"num_classes": 10**12}, r"does not fit its model: classifier.* wanted \[1000000000000"),
        ({"num_classes": 10**30}, "describes no model of this version"),
        ({"num_classes": -1}, "describes no model of this version"),
        ({"num_classes": 1.5}, "describes no model of this version"),
        ({"num_classes": "1"}, "describes no model of this version"),
        ({"variant": [[[1]]]}, "describes no model of this version"),
        ({"variant": "x" * 10**6}, "describes no model of this version"),
        ({"drop_rate": 7}, "describes no model of this version"),
        ({"drop_rate": None}, "describes no model of this version"),
        ({"groups": 10**9}, "describes no model of this version: unknown keys"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_configuration_of_another_model_is_named(run: Path, arguments: dict[str, Any], message: str) -> None:
    config = json.loads((run / "config.json").read_text())
    config["model"] |= arguments
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=message) as caught:
        load_run(run)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_size", 10**9), ("image_size", True), ("image_size", 64.0), ("image_size", [64]), ("arguments", [1]),
        ("arguments", "x"), ("data", [1]), ("data", "x"), ("data", {"methods": 3}), ("data", {"methods": [1]}),
        ("model", []),
    ],
    ids=str,
)  # fmt: skip
def test_wrong_types_in_a_configuration_are_named(run: Path, key: str, value: Any) -> None:
    config = json.loads((run / "config.json").read_text()) | {key: value}
    (run / "config.json").write_text(json.dumps(config))
    assert "config.json" in refusal(run)


def test_a_configuration_with_a_key_twice_is_refused(run: Path) -> None:
    content = (run / "config.json").read_text()
    (run / "config.json").write_text(content.replace('"image_size"', '"image_size": 64, "image_size"'))
    assert "the key 'image_size' is there twice" in refusal(run)


def test_weights_of_another_type_are_refused(run: Path) -> None:
    """Of the same size: read as numbers, the bits of floats are nonsense, and no error."""
    weights = load_file(run / "best/model.safetensors")
    name = next(name for name, tensor in weights.items() if tensor.ndim == 4)
    weights[name] = weights[name].contiguous().view(torch.int32)
    save_file(weights, run / "best/model.safetensors")
    assert f"{name} is torch.int32, wanted torch.float32" in refusal(run)


def test_weights_too_much_and_missing_are_named(run: Path) -> None:
    weights = load_file(run / "best/model.safetensors")
    save_file(weights | {"zzz": torch.zeros(1)}, run / "best/model.safetensors")
    assert refusal(run).endswith("does not fit its model: zzz is too much")
    name = sorted(weights)[0]
    save_file({key: tensor for key, tensor in weights.items() if key != name}, run / "best/model.safetensors")
    assert refusal(run).endswith(f"does not fit its model: {name} is missing")


def test_metadata_that_is_too_deep_is_a_text(run: Path) -> None:
    weights = load_file(run / "best/model.safetensors")
    save_file(weights, run / "best/model.safetensors", {"epoch": "[" * 100_000, "config": "[1]"})
    assert load_run(run)[1]["best"]["epoch"] == "[" * 100_000


@pytest.mark.parametrize("cut", [0, 1, 7, 8, 9, 100, -1])
def test_truncated_weights_are_named(run: Path, cut: int) -> None:
    content = (run / "best/model.safetensors").read_bytes()
    (run / "best/model.safetensors").write_bytes(content[:cut])
    assert "model.safetensors is not a safetensors file" in refusal(run)
