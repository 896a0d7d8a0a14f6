"""What reproduce.py tries before anything long, and the ImageNet weights from a file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

import reproduce
from deepfake.common.cli import UserError
from deepfake.common.texts import read_json
from deepfake.reproducing import preflight
from deepfake.training import encoder_weights
from deepfake.training import settings as config
from deepfake.training.description import earlier_sessions, machine
from deepfake.training.encoder_weights import cached_file, digest_of, load_encoder
from deepfake.training.run import build_model
from panet_layers import use_backend
from panet_layers.models.encoder import VARIANTS, XceptionEncoder
from tests.deepfake.experiments import experiment_of
from tests.deepfake.prepare_for_tests import save_tree

TINY = ["--train", "--variant tiny --epochs 1 --batch-size 4 --workers 0 --threads 1", "--seeds", "1"]
TINY += ["--prepare", "--size 64 --workers 1 --methods Deepfakes", "--compressions", "c23", "--no-estimate"]


def spoil(prepare):
    """Steps as they are, but for the gradient of the input by the backend that would be taken."""

    def spoiled(case, backend, *rest):
        step = prepare(case, backend, *rest)
        if backend == "auto":
            step.backward(step.forward())
            object.__setattr__(step, "backward", lambda out, backward=step.backward: _doubled(backward(out)))
        return step

    return spoiled


def _doubled(gradients):
    return (2 * gradients[0], *gradients[1:])


def test_a_wrong_layer_stops_before_any_step(tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, "prepare", spoil(preflight.prepare))
    tree, out = save_tree(tmp_path / "tree"), tmp_path / "out"
    with pytest.raises(
        UserError, match=r"preflight: emam 2x96x.* on cpu fails \(.*gradient of input.*certify"
    ) as caught:
        reproduce.main([str(tree), str(out), *TINY])
    assert caught.value.exit_code == 1 and not (out / "data").exists()


def test_a_layer_that_cannot_run_is_named(monkeypatch):
    def broken(*_):
        raise RuntimeError("no kernel image is available\nfor execution")

    monkeypatch.setattr(preflight, "prepare", broken)
    (emam, scam) = preflight.cases(config.settle({"data": "x", "out": "x"}), torch.device("cpu"))
    assert emam.shape == (2, 728, 19, 19) and scam.shape == (2, 2048, 10, 10)
    with pytest.raises(UserError, match=r"scam 2x2048x10x10 .*RuntimeError: no kernel image is available\)"):
        preflight.check_layer(scam)


def test_the_layers_of_this_machine_pass(capsys):
    steps = reproduce.plan(experiment := experiment_of("--train", "--variant tiny --no-channels-last"))
    preflight.preflight(experiment, steps)
    assert capsys.readouterr().out == "preflight on cpu: passed\n"
    preflight.preflight(experiment, [step for step in steps if step.script != "train.py"])
    assert capsys.readouterr().out == ""


def test_without_imagenet_weights_nothing_starts(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("timm.create_model", offline)
    tree, out = save_tree(tmp_path / "tree"), tmp_path / "out"
    command = [str(tree), str(out), *TINY[2:]]
    with pytest.raises(
        UserError, match=rf"no route to host.*put the file at {re.escape(str(cached_file()))} or name a file"
    ):
        reproduce.main(command)
    missing = tmp_path / "missing.pth"
    with pytest.raises(UserError, match=re.escape(f"{missing}: no such file")):
        reproduce.main([*command, "--train", f"--encoder-weights {missing}"])
    assert not (out / "data").exists()


# --- ImageNet weights from a file


@pytest.fixture(scope="module")
def imagenet() -> dict[str, torch.Tensor]:
    """A state dict as timm's file holds it, with its classifier."""
    torch.manual_seed(1)
    return timm.create_model("legacy_xception").state_dict()


@pytest.mark.parametrize("name", ["xception.pth", "model.safetensors"])
def test_the_encoder_starts_from_a_file(name, imagenet, tmp_path):
    file = tmp_path / name
    save_file(imagenet, file) if name.endswith("safetensors") else torch.save(
        imagenet, file, _use_new_zipfile_serialization=False
    )
    given = {"data": "x", "out": "x", "model": "xception", "encoder_weights": str(file)}
    encoder = build_model(config.settle(given), pretrained=True).encoder
    assert all(torch.equal(value, imagenet[key]) for key, value in encoder.state_dict().items())
    resumed = build_model(config.settle(given), pretrained=False).encoder
    assert not torch.equal(resumed.conv1.weight, imagenet["conv1.weight"])


def test_a_file_of_other_weights_is_refused(imagenet, tmp_path):
    encoder = XceptionEncoder(VARIANTS["tiny"])
    torch.save(imagenet, tmp_path / "paper.pth")
    with pytest.raises(UserError, match=r"paper\.pth do not fit the model: .*wanted timm's legacy_xception"):
        load_encoder(encoder, tmp_path / "paper.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(UserError, match=r"text\.pth: cannot be read as weights"):
        load_encoder(encoder, tmp_path / "text.pth")
    for found in ([1, 2], {1: torch.zeros(2)}):
        torch.save(found, tmp_path / "other.pth")
        with pytest.raises(UserError, match=r"other\.pth: not a state dict"):
            load_encoder(encoder, tmp_path / "other.pth")


@pytest.mark.parametrize("spoiled", [torch.full((16, 3, 3, 3), torch.nan), torch.zeros(16, 3, 3, 3, dtype=torch.int8)])
def test_weights_that_are_no_finite_numbers_are_refused(spoiled, tmp_path):
    encoder = XceptionEncoder(VARIANTS["tiny"])
    weights = encoder.state_dict()
    torch.save({"state_dict": weights}, tmp_path / "right.pth")
    load_encoder(encoder, tmp_path / "right.pth")
    torch.save(weights | {"conv1.weight": spoiled}, tmp_path / "wrong.pth")
    with pytest.raises(UserError, match=r"wrong\.pth: conv1\.weight holds no finite numbers"):
        load_encoder(encoder, tmp_path / "wrong.pth")


def test_other_weights_than_timms_are_not_the_papers_recipe(tmp_path, monkeypatch):
    file = tmp_path / "own.pth"
    file.write_bytes(b"weights")
    experiment = experiment_of("--train", f"--encoder-weights {file}")
    assert reproduce.recipe_of(experiment)["train"] == {"encoder_weights": digest_of(file)[:12]}
    monkeypatch.setattr(encoder_weights, "cached_file", lambda: Path(f"xception-{digest_of(file)[:9]}.pth"))
    assert reproduce.recipe_of(experiment)["train"] == {}


def test_a_resumed_run_keeps_what_it_began_with():
    session = {"commit": "a", "versions": {"torch": "1"}, "machine": {"device": "gpu"}}
    later = {**session, "commit": "b"}
    assert earlier_sessions(session, session) == []
    assert earlier_sessions({**session, "earlier": [later]}, later) == [later, session]


def test_a_backend_that_cannot_run_is_recorded():
    with use_backend("cuda"):
        found = machine(torch.device("cpu"))
    assert "NVIDIA GPU" in found["emam"] and "EMAM only" in found["scam"]


def test_a_file_for_a_start_from_scratch_is_refused():
    with pytest.raises(UserError, match="--encoder-weights needs --pretrained"):
        config.settle({"data": "x", "out": "x", "variant": "tiny", "encoder_weights": "file.pth"})


def test_a_config_says_what_it_ran_on(finished_run: Path):
    found = read_json(finished_run / "config.json")
    assert {found["machine"][layer] for layer in ("emam", "scam")} <= {"native", "collapsed"}
    assert found["machine"]["device"] and found["encoder_weights"] is None and "earlier" not in found
    assert found["machine"]["cuda"] is None and found["versions"]["timm"] == timm.__version__
