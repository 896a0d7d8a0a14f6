"""A detector is saved as safetensors and config.json and loads from them; other folders are refused clearly."""

import json

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from panet_layers.models import PANet, XceptionBaseline

IMAGES = torch.linspace(-1, 1, 2 * 3 * 64 * 64).reshape(2, 3, 64, 64)


def outputs(model):
    with torch.no_grad():
        return model.eval()(IMAGES)


@pytest.fixture
def folder(tmp_path):
    PANet(variant="tiny", emam="guided", scam=None, num_classes=2, drop_rate=0.1).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def edit_config(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize(
    "model",
    [
        PANet(variant="tiny", emam="fusion", scam="common", groups=4, reduction=8, num_classes=3),
        PANet(variant="tiny", emam=None, scam=None),
        PANet.xception_baseline(variant="tiny", drop_rate=0.4),
    ],
    ids=["panet", "recce", "baseline"],
)
def test_round_trip(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert {"model.safetensors", "config.json"} <= {file.name for file in tmp_path.iterdir()}
    loaded = type(model).from_pretrained(tmp_path)
    assert type(loaded) is type(model) and not loaded.training
    assert loaded.config == model.config == json.loads((tmp_path / "config.json").read_text())
    torch.testing.assert_close(outputs(loaded), outputs(model), rtol=0, atol=0)


HUB = tuple(map(int, huggingface_hub.__version__.split(".")[:2]))


@pytest.mark.skipif(HUB < (0, 24), reason="huggingface-hub 0.23 takes no card from a base class")
@pytest.mark.parametrize("build", [PANet, PANet.xception_baseline])
def test_the_code_of_the_model_card_runs(build, tmp_path):
    build(variant="tiny").save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "license: mit" in card and "{{" not in card
    code = card.split("```python\n")[1].split("```")[0].replace("FOLDER-OR-REPOSITORY", str(tmp_path))
    names = {}
    exec(code, names)
    assert names["model"].encoder.conv2.weight.is_contiguous(memory_format=torch.channels_last)
    assert 0 < names["probability_of_fake"].item() < 1


def test_panet_loads_a_saved_baseline(tmp_path):
    PANet.xception_baseline(variant="tiny").save_pretrained(tmp_path)
    assert isinstance(PANet.from_pretrained(tmp_path), XceptionBaseline)


def test_a_subclass_loads_as_itself(folder):
    class Mine(PANet):
        pass

    assert type(Mine.from_pretrained(folder)) is Mine


def test_config_builds_the_model_again():
    for model in (PANet(2, variant="tiny", emam="final", noise_std=0.1), XceptionBaseline(variant="tiny")):
        config = json.loads(json.dumps(model.config))
        again = PANet.from_config(config)
        assert type(again) is type(model) and again.config == model.config
        assert again.state_dict().keys() == model.state_dict().keys()
    assert PANet(**PANet(variant="tiny").config).config == PANet(variant="tiny").config


def test_config_is_a_copy():
    model = PANet(variant="tiny")
    model.config["variant"] = "paper"
    assert model.config["variant"] == "tiny"


def test_arguments_override_the_saved_configuration(folder):
    assert PANet.from_pretrained(folder, drop_rate=0.7).dropout.p == 0.7


def test_map_location(folder):
    assert next(PANet.from_pretrained(folder, map_location="cpu").parameters()).device.type == "cpu"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"surprise": 1}, r"unknown keys in the configuration of PANet: \['surprise'\]"),
        ({"architecture": "resnet"}, r"architecture must be one of .*'panet'.* got 'resnet'"),
        ({"architecture": "xception"}, r"unknown keys in the configuration of XceptionBaseline: \['emam'"),
        ({"variant": "huge"}, "variant must be one of .* got 'huge'"),
        ({"emam": "nowhere"}, "emam must be one of .* got 'nowhere'"),
        ({"groups": 7}, "groups=7 does not divide the 96 channels at emam='guided'; choose a divisor, such as 6$"),
        ({"groups": 4}, r"conv1x1.weight \(12, 12, 1, 1\) instead of \(24, 24, 1, 1\)"),
        ({"num_classes": 1}, r"2 of another shape \(classifier.weight \(2, 192\) instead of \(1, 192\)"),
        ({"emam": None}, r"6 unknown \(emam.conv1x1"),
        ({"scam": "final"}, r"missing \(scam\."),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(folder, change, message):
    edit_config(folder, **change)
    with pytest.raises(ValueError, match=message):
        PANet.from_pretrained(folder)


def test_a_folder_without_configuration_is_refused(folder):
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"no usable config.json in .*model"):
        PANet.from_pretrained(folder)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing' is neither a folder nor the name of a Hub repository"):
        PANet.from_pretrained(tmp_path / "missing")


def test_a_configuration_that_is_no_mapping_is_refused():
    with pytest.raises(ValueError, match=r"a configuration is a mapping of names to values, got None"):
        PANet.from_config(None)


def test_a_folder_without_weights_is_refused(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no model.safetensors in .*model"):
        PANet.from_pretrained(folder)


def test_weights_that_are_no_safetensors_are_refused(folder):
    (folder / "model.safetensors").write_bytes(b"not a tensor in sight")
    with pytest.raises(ValueError, match=r"model.safetensors is not a safetensors file"):
        PANet.from_pretrained(folder)


def test_weights_without_a_tensor_are_refused_if_strict(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["decoder.to_rgb.weight"]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"1 missing \(decoder.to_rgb.weight\)"):
        PANet.from_pretrained(folder)
    assert PANet.from_pretrained(folder, strict=False).config["num_classes"] == 2


def test_building_from_a_configuration_downloads_no_imagenet_weights(monkeypatch):
    """A saved detector has its own weights, so its configuration does not hold `encoder_pretrained`."""
    source = timm.create_model("legacy_xception", num_classes=0)
    monkeypatch.setattr(timm, "create_model", lambda *args, **options: source)
    model = XceptionBaseline(encoder_pretrained=True)
    monkeypatch.delattr(timm, "create_model")
    assert XceptionBaseline.from_config(model.config).config == model.config
