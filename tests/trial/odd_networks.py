"""Networks of a user for tests: one that is right, and others with a fault each."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn


def tiny(classes: int) -> nn.Module:
    """A network of two convolutions, with dropout."""
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(16, classes)]
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), *head)


def of_grey(classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))


def of_seven(classes: int) -> nn.Module:
    return tiny(7)


def of_any_start(classes: int) -> nn.Module:
    model = tiny(classes)
    nn.init.constant_(model[0].bias, np.random.default_rng().normal())  # type: ignore[index, arg-type]
    return model


def of_pairs(classes: int) -> nn.Module:
    class Pairs(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x, x

    return Pairs()


def a_number(classes: int) -> int:
    return classes


def of_no_training(classes: int) -> nn.Module:
    class Finished(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training:
                raise RuntimeError("is finished")
            return super().forward(x)

    return Finished(*tiny(classes).children())
