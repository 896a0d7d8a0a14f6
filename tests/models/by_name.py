"""Published networks computed from their state_dicts alone, tensor by tensor and by name, and the names and shapes."""

import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F

RECCE_SHAPES = json.loads(Path(__file__).with_name("recce_state_dict.json").read_text())


def random_state(shapes, dtype=torch.float32):
    """A state_dict with random weights, scaled so that activations stay near 1."""
    torch.manual_seed(0)
    state = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(0)
        elif len(shape) > 1:
            state[name] = torch.randn(shape, dtype=dtype) * (2 / math.prod(shape[1:])) ** 0.5
        else:
            centre = 1.0 if name.endswith(("running_var", "weight")) else 0.0
            state[name] = centre + (torch.rand(shape, dtype=dtype) - 0.5) * 0.4
    return state


def bench_xception_shapes():
    """The names and shapes of DeepfakeBench's Xception with two logits, `adjust_channel` included."""
    shapes = {"conv1.weight": (32, 3, 3, 3), **norm("bn1", 32), "conv2.weight": (64, 32, 3, 3), **norm("bn2", 64)}
    shapes |= block("block1", (64, 128, 128), first=0) | block("block2", (128, 256, 256))
    shapes |= block("block3", (256, 728, 728))
    for number in range(4, 12):
        shapes |= block(f"block{number}", (728,) * 4)
    shapes |= block("block12", (728, 728, 1024))
    for number, channels, out in ((3, 1024, 1536), (4, 1536, 2048)):
        shapes |= separable(f"conv{number}", channels, out) | norm(f"bn{number}", out)
    shapes |= {"last_linear.weight": (2, 2048), "last_linear.bias": (2,)}
    return (
        shapes
        | {"adjust_channel.0.weight": (512, 2048, 1, 1), "adjust_channel.0.bias": (512,)}
        | norm("adjust_channel.1", 512)
    )


def norm(name, channels):
    shapes = {f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")}
    return shapes | {f"{name}.num_batches_tracked": ()}


def separable(name, channels, out):
    return {f"{name}.conv1.weight": (channels, 1, 3, 3), f"{name}.pointwise.weight": (out, channels, 1, 1)}


def block(name, widths, first=1):
    """A block with these numbers of channels before, between and after its convolutions."""
    shapes = {}
    for position, (channels, out) in enumerate(zip(widths, widths[1:], strict=False)):
        number = first + 3 * position
        shapes |= separable(f"{name}.rep.{number}", channels, out) | norm(f"{name}.rep.{number + 1}", out)
    if widths[0] != widths[-1]:
        shapes |= {f"{name}.skip.weight": (widths[-1], widths[0], 1, 1)} | norm(f"{name}.skipbn", widths[-1])
    return shapes


class ByName:
    """The operations of a network in evaluation mode, each with the tensors of a name."""

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


class Recce(ByName):
    """RECCE, one vertex after another: images to logits, reconstruction and embeddings."""

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


class BenchXception(ByName):
    """DeepfakeBench's Xception: images to logits [real, fake]."""

    def __call__(self, images):
        x = F.relu(self.bn(self.conv(images, "conv1", stride=2), "bn1"))
        x = self.block(F.relu(self.bn(self.conv(x, "conv2"), "bn2")), "block1", first_relu=False, stride=2)
        for number in range(2, 13):
            x = self.block(x, f"block{number}", stride=2 if number in (2, 3, 12) else 1)
        x = F.relu(self.bn(self.separable(x, "conv3"), "bn3"))
        x = self.bn(self.separable(x, "conv4"), "bn4")
        return self.linear(F.relu(x).mean((2, 3)), "last_linear") + self.state["last_linear.bias"]
