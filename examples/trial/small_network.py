"""A small network for small images, and an example of what `--network module:function` takes."""

from __future__ import annotations

from torch import nn


def small_network(classes: int) -> nn.Sequential:
    """A network of four convolutions: images (B, 3, S, S), S at least 4, to logits (B, classes)."""

    def block(before: int, after: int) -> list[nn.Module]:
        return [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]

    model = nn.Sequential()
    model.add_module("stage1", nn.Sequential(*block(3, 32), *block(32, 32)))
    model.add_module("pool", nn.MaxPool2d(2))
    model.add_module("stage2", nn.Sequential(*block(32, 64), *block(64, 64)))
    model.add_module("head", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes)))
    return model
