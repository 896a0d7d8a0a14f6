"""PANet without attention layers is RECCE: every published tensor maps, and PANet computes what RECCE computes."""

import pytest
import torch

from panet_layers.models import PANet, recce_state_dict
from tests.models.by_name import RECCE_SHAPES, Recce, bench_xception_shapes, random_state


@pytest.fixture(scope="module")
def state():
    return random_state(RECCE_SHAPES)


def test_every_tensor_of_a_published_state_dict_is_used_or_listed(state):
    weights, unused = recce_state_dict(state)
    assert unused == ["encoder.fc.bias", "encoder.fc.weight"]
    assert len(weights) + len(unused) == len(RECCE_SHAPES) == 362
    with torch.device("meta"):
        model = PANet(emam=None, scam=None)
    assert {name: value.shape for name, value in weights.items()} == {
        name: value.shape for name, value in model.state_dict().items()
    }


def test_mapped_weights_compute_what_recce_computes():
    state = random_state(RECCE_SHAPES, torch.float64)
    images = torch.rand(2, 3, 64, 80, dtype=torch.float64) * 2 - 1
    model = PANet(emam=None, scam=None).double().eval()
    model.load_state_dict(recce_state_dict(state).state_dict, strict=True)
    with torch.no_grad():
        logits, reconstruction, embeddings = Recce(state)(images)
        output = model(images)
    assert logits.isfinite().all() and logits.std() > 1e-3
    torch.testing.assert_close(output.logits, logits, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(output.reconstruction, reconstruction, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(output.embeddings, embeddings, rtol=1e-9, atol=1e-9)


def test_wrappers_and_ddp_prefix_are_removed(state):
    plain = recce_state_dict(state)
    wrapped = {f"module.{name}": value for name, value in state.items()}
    for checkpoint in (wrapped, {"model": wrapped, "epoch": 3}, {"state_dict": wrapped}):
        assert recce_state_dict(checkpoint).state_dict.keys() == plain.state_dict.keys()
        assert recce_state_dict(checkpoint).unused == plain.unused


def bench_layout(state, prefix=""):
    """As DeepfakeBench stores it: beside RECCE an Xception that it does not use."""
    backbone = {f"{prefix}backbone.{name}": torch.zeros(shape) for name, shape in bench_xception_shapes().items()}
    return backbone | {f"{prefix}model.{name}": value for name, value in state.items()}


@pytest.mark.parametrize("prefix", ["", "module."])
def test_deepfakebenchs_layout_gives_the_same_tensors(state, prefix):
    two = {**state, "fc.weight": torch.randn(2, 2048), "fc.bias": torch.randn(2)}
    weights, unused = recce_state_dict(bench_layout(two, prefix))
    plain = recce_state_dict(two)
    assert weights.keys() == plain.state_dict.keys()
    assert all(torch.equal(value, plain.state_dict[name]) for name, value in weights.items())
    assert unused == [*plain.unused, *(f"backbone.{name}" for name in bench_xception_shapes())]


def test_a_tensor_beside_deepfakebenchs_is_named(state):
    with pytest.raises(ValueError, match=r"1 unknown \(backbone.block13.skip.weight\)"):
        recce_state_dict({**bench_layout(state), "backbone.block13.skip.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"1 unknown \(fc.bias without model\.\)"):
        recce_state_dict({**bench_layout(state), "fc.bias": torch.zeros(1)})


def test_a_checkpoint_without_the_imagenet_classifier(state):
    weights, unused = recce_state_dict({k: v for k, v in state.items() if not k.startswith("encoder.fc.")})
    assert unused == [] and len(weights) == 360


def test_other_numbers_of_classes(state):
    two = {**state, "fc.weight": torch.zeros(2, 2048), "fc.bias": torch.zeros(2)}
    assert recce_state_dict(two).state_dict["classifier.weight"].shape == (2, 2048)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder6.0.weight": None}, r"1 missing \(decoder6.0.weight\)"),
        ({"surprise": torch.zeros(1)}, r"1 unknown \(surprise\)"),
        ({"fc.weight": torch.zeros(1, 7)}, r"fc.weight \(1, 7\) instead of \(1, 2048\)"),
        ({"attention.gated.0.weight": torch.zeros(3, 3, 1, 1)}, r"\(3, 3, 1, 1\) instead of \(3, 3, 3, 3\)"),
        ({"fc.bias": None, "fc.weight": None}, r"2 missing \(fc.bias, fc.weight\)|2 missing \(fc.weight, fc.bias\)"),
    ],
)
def test_tensors_that_do_not_fit_are_named(state, change, message):
    changed = {name: value for name, value in {**state, **change}.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        recce_state_dict(changed)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "360 missing"),
        ({"epoch": 1, "model": {}}, "360 missing"),
        ({"model": 3, "epoch": 1}, "these are no tensors: model, epoch"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        recce_state_dict(wrong)
