"""PANet without attention layers is RECCE: every published tensor maps, and PANet computes what RECCE computes."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from panet_layers.models import PANet, recce_state_dict

SHAPES = json.loads(Path(__file__).with_name("recce_state_dict.json").read_text())


def random_state(dtype=torch.float32):
    """A RECCE state_dict with random weights, scaled so that activations stay near 1."""
    torch.manual_seed(0)
    state = {}
    for name, shape in SHAPES.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(0)
        elif len(shape) > 1:
            fan_in = torch.Size(shape[1:]).numel()
            state[name] = torch.randn(shape, dtype=dtype) * (2 / fan_in) ** 0.5
        else:
            centre = 1.0 if name.endswith(("running_var", "weight")) else 0.0
            state[name] = centre + (torch.rand(shape, dtype=dtype) - 0.5) * 0.4
    return state


@pytest.fixture(scope="module")
def state():
    return random_state()


def test_every_tensor_of_a_published_state_dict_is_used_or_listed(state):
    weights, unused = recce_state_dict(state)
    assert unused == ["encoder.fc.bias", "encoder.fc.weight"]
    assert len(weights) + len(unused) == len(SHAPES) == 362
    with torch.device("meta"):
        model = PANet(emam=None, scam=None)
    assert {name: value.shape for name, value in weights.items()} == {
        name: value.shape for name, value in model.state_dict().items()
    }


class Recce:
    """RECCE's forward pass in evaluation mode, computed from its state_dict, one vertex after another."""

    def __init__(self, state):
        self.state = state

    def conv(self, x, name, **options):
        weight = self.state[f"{name}.weight"]
        return F.conv2d(x, weight, **options)

    def linear(self, x, name):
        return x @ self.state[f"{name}.weight"].T

    def bn(self, x, name):
        names = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(self.state[f"{name}.{which}"] for which in names))

    def separable(self, x, name):
        x = self.conv(x, f"{name}.conv1", padding=1, groups=x.shape[1])
        return self.conv(x, f"{name}.pointwise")

    def block(self, x, name, first_relu=True, stride=1):
        out, position = x, 0 if not first_relu else 1
        while f"{name}.rep.{position}.conv1.weight" in self.state:
            out = F.relu(out) if position else out
            out = self.bn(self.separable(out, f"{name}.rep.{position}"), f"{name}.rep.{position + 1}")
            position += 3
        if stride > 1:
            out = F.max_pool2d(out, 3, stride, 1)
        if f"{name}.skip.weight" in self.state:
            x = self.bn(self.conv(x, f"{name}.skip", stride=stride), f"{name}.skipbn")
        return out + x

    def middle(self, x, numbers):
        for number in numbers:
            x = self.block(x, f"encoder.block{number}")
        return x

    def double(self, x, name):
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        return F.relu(self.bn(self.separable(x, f"{name}.1"), f"{name}.2"))

    def message(self, features, embedded, neighbours, letter, ratio):
        gate = torch.sigmoid(self.conv(features, f"reasoning.va_gated_{letter}.0"))
        out = torch.empty_like(embedded)
        for y in range(embedded.shape[2]):
            for x in range(embedded.shape[3]):
                patch = neighbours[:, :, y * ratio : (y + 1) * ratio, x * ratio : (x + 1) * ratio].flatten(2).mT
                hidden = F.relu(self.linear(patch, f"reasoning.v{letter}_embedding.0"))
                vectors = self.linear(hidden, f"reasoning.v{letter}_embedding.2")
                pairs = torch.cat([embedded[:, None, :, y, x].expand_as(vectors), vectors], dim=-1)
                scores = F.relu(self.linear(pairs, f"reasoning.reweight_a{letter}.0"))
                summed = (scores.softmax(dim=1) * vectors).sum(1)
                out[:, :, y, x] = summed * (1 - gate[:, :, y, x])
        return out

    def reasoning(self, features, x2, x4):
        embedded = F.relu(self.conv(features, "reasoning.va_embedding.0"))
        embedded = self.conv(embedded, "reasoning.va_embedding.2")
        messages = [self.message(features, embedded, x2, "b", 2), self.message(features, embedded, x4, "c", 4)]
        joined = torch.sigmoid(torch.cat([*messages, embedded], dim=1))
        return self.conv(F.relu(self.conv(joined, "reasoning.reproject.0")), "reasoning.reproject.2")

    def __call__(self, images):
        x = F.relu(self.bn(self.conv(images, "encoder.conv1", stride=2), "encoder.bn1"))
        x = F.relu(self.bn(self.conv(x, "encoder.conv2"), "encoder.bn2"))
        x = self.block(x, "encoder.block1", first_relu=False, stride=2)
        x = self.block(self.block(x, "encoder.block2", stride=2), "encoder.block3", stride=2)
        common = self.block(x, "encoder.block4")

        x2 = self.block(self.double(common, "decoder1"), "decoder2")
        x4 = self.block(self.double(x2, "decoder3"), "decoder4")
        drawn = torch.tanh(self.conv(self.double(x4, "decoder5"), "decoder6.0"))
        reconstruction = F.interpolate(drawn, images.shape[2:], mode="bilinear", align_corners=True)

        x = self.middle(common, (5, 6, 7))
        x = self.middle(x + self.reasoning(x, x2, x4), (8,))
        error = (images - reconstruction).abs()
        error = F.interpolate(error, x.shape[2:], mode="bilinear", align_corners=True)
        error = F.relu(self.conv(error, "attention.gated.0", padding=1))
        attention = torch.sigmoid(self.conv(error, "attention.gated.2"))
        x = attention * F.relu(self.bn(self.conv(x, "attention.h.0"), "attention.h.1")) + x
        x = self.block(self.middle(x, (9, 10, 11)), "encoder.block12", stride=2)
        x = F.relu(self.bn(self.separable(x, "encoder.conv3"), "encoder.bn3"))
        x = F.relu(self.bn(self.separable(x, "encoder.conv4"), "encoder.bn4"))
        logits = self.linear(x.mean((2, 3)), "fc") + self.state["fc.bias"]
        embeddings = tuple(F.normalize(features.mean((2, 3)), dim=1) for features in (common, x2, x4))
        return logits, reconstruction, embeddings


def test_mapped_weights_compute_what_recce_computes():
    state = random_state(torch.float64)
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
