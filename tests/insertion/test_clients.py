"""examples/insertion: each script runs where its package is installed, and its network trains, saves and loads."""

import importlib
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from panet_layers import EMAM, SCAM, insert_attention

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples/insertion"
X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def example(request, monkeypatch, capsys):
    """The example's module, after its main() has printed its result as the last line."""
    pytest.importorskip(request.param["needs"])
    torch.manual_seed(0)
    module = importlib.import_module(request.param["name"])
    module.main()
    assert request.param["says"] in capsys.readouterr().out.splitlines()[-1]
    return module


def runs(name, says, needs=None):
    given = {"name": f"into_{name}", "says": says, "needs": needs or name}
    return pytest.mark.parametrize("example", [given], indirect=True, ids=[name])


def layers(model):
    return [module for module in model.modules() if isinstance(module, (EMAM, SCAM))]


def with_shares(model):
    """The model with half of each layer's output, so that gradients reach the layers."""
    shares = [p for name, p in model.named_parameters() if name.endswith(".share")]
    assert len(shares) == len(layers(model)) and not any(share.any() for share in shares)
    for share in shares:
        torch.nn.init.constant_(share, 0.5)
    return model


def check_gradients(model):
    """Every layer has some, after a backward pass."""
    gradients = [p.grad for layer in layers(model) for p in layer.parameters()]
    assert gradients and all(g is not None and g.isfinite().all() for g in gradients)
    assert all(any(p.grad.any() for p in layer.parameters()) for layer in layers(model))


def check_plain_weights_load(model, plain):
    """Weights of the network without layers load; only the layers' keys are missing."""
    missing, unexpected = model.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and missing and all(".inserted_attention" in key for key in missing)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in plain.state_dict().items())


@pytest.mark.slow
@runs("timm", "5 EMAM layers after its stages, or 16 in its blocks")
def test_timm(example):
    import timm

    torch.manual_seed(1)
    plain = timm.create_model("resnet50")
    model = example.after_every_stage("resnet50", plain.state_dict())
    assert torch.equal(model.layer4[0].conv1.weight, plain.layer4[0].conv1.weight)
    missing, unexpected = example.in_every_block("resnet50").load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and len({key.partition(".se.")[0] for key in missing}) == 16


@pytest.mark.slow
@runs("torchvision", "losses with EMAM after every stage: resnet50 ")
def test_torchvision(example):
    assert len(example.STAGES) == 3
    for build in example.STAGES:
        model = example.with_attention(build)
        assert len(layers(model)) == 4
        check_plain_weights_load(model, build())
        with_shares(model)(X).square().sum().backward()
        check_gradients(model)


@pytest.mark.slow
@runs("unet", "Unet with 4 EMAM and 5 SCAM layers", needs="segmentation_models_pytorch")
def test_segmentation_models(example):
    model = example.with_attention()
    check_plain_weights_load(model, example.smp.Unet("resnet18", encoder_weights=None, classes=2))
    with_shares(model)(X).square().sum().backward()
    check_gradients(model)


@runs("transformers", "ResNet of transformers with 3 EMAM layers")
@pytest.mark.parametrize("network", ["ResNet", "ConvNext"])
def test_transformers_own_checkpoints(example, network, tmp_path):
    """A plain checkpoint loads, and a checkpoint of the network with layers restores the same network."""
    sizes = {"hidden_sizes": [16, 32, 64, 96], "depths": [1, 1, 1, 1]}
    config = getattr(example, f"{network}Config")(**sizes)
    plain = getattr(example, f"{network}ForImageClassification")(config)
    plain.save_pretrained(tmp_path / "plain")
    kind = getattr(example, f"EMAM{network}ForImageClassification")
    model, found = kind.from_pretrained(tmp_path / "plain", output_loading_info=True)
    assert all(".inserted_attention" in key for key in found["missing_keys"]) and not found["unexpected_keys"]
    assert all(torch.equal(model.state_dict()[key], value) for key, value in plain.state_dict().items())
    assert all(p.isfinite().all() and p.abs().max() < 10 for layer in layers(model) for p in layer.parameters())

    with_shares(model).train()(X, labels=torch.tensor([0, 1])).loss.backward()
    assert len(layers(model)) == 4
    check_gradients(model)
    model.save_pretrained(tmp_path / "own")
    again, found = kind.from_pretrained(tmp_path / "own", output_loading_info=True)
    assert not found["missing_keys"] and not found["unexpected_keys"]
    assert torch.equal(again.eval()(X).logits, model.eval()(X).logits)


def test_only_shares_of_inserted_layers_are_set_to_zero(monkeypatch):
    """Without transformers: of it, only that the classes initialise weights."""
    stand_in = types.ModuleType("transformers")
    classes = ("ConvNextConfig", "ConvNextForImageClassification", "ResNetConfig", "ResNetForImageClassification")
    for name in classes:
        setattr(stand_in, name, type(name, (), {}))
    monkeypatch.setitem(sys.modules, "transformers", stand_in)
    monkeypatch.delitem(sys.modules, "into_transformers", raising=False)
    example = importlib.import_module("into_transformers")
    monkeypatch.delitem(sys.modules, "into_transformers")

    class Host(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.mixing = torch.nn.Conv2d(3, 8, 3), torch.nn.Module()
            self.mixing.share = torch.nn.Parameter(torch.ones(1))

        def forward(self, x):
            return self.stem(x) * self.mixing.share

        def initialize_weights(self):
            pass

    model = type("WithLayers", (example.StartsFromNothing, Host), {})()
    insert_attention(model, "stem", EMAM, example_input=torch.zeros(2, 3, 20, 30))
    inserted = model.stem.inserted_attention[0].share
    torch.nn.init.ones_(inserted)
    model.initialize_weights()
    assert inserted == 0 and model.mixing.share == 1


@runs("lightning", "Lightning trained a network with EMAM for 1 step")
def test_lightning_trains_and_restores(example, tmp_path):
    module = example.Classifier()
    before = {name: p.clone() for name, p in module.named_parameters()}
    data = torch.utils.data.TensorDataset(X, torch.tensor([0, 1]))
    trainer = example.lightning.Trainer(
        max_steps=1, accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path
    )
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=2))
    changed = [name for name, p in module.named_parameters() if not torch.equal(p, before[name])]
    assert len(layers(module)) == 5
    assert sum(name.endswith("inserted_attention.0.share") for name in changed) == 5
    trainer.save_checkpoint(tmp_path / "step.ckpt")
    again = example.Classifier.load_from_checkpoint(tmp_path / "step.ckpt")
    assert torch.equal(again.model.eval()(X), module.model.eval()(X))


@pytest.mark.slow
def test_ultralytics_trains_saves_fine_tunes_and_exports(tmp_path):
    """In a process of its own: importing ultralytics changes torch and the environment, and reads its settings."""
    pytest.importorskip("ultralytics")
    offline = {"YOLO_CONFIG_DIR": str(tmp_path), "YOLO_OFFLINE": "1", "YOLO_AUTOINSTALL": "0", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("check_yolo.py"), tmp_path],
        cwd=tmp_path,
        env={**os.environ, **offline, "PYTHONPATH": os.pathsep.join([str(EXAMPLES), str(ROOT)])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert "YOLO11n trained with 3 EMAM layers" in done.stdout
    assert done.stdout.splitlines()[-1] == "all checks passed"
