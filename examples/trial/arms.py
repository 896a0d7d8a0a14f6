"""The arms of a trial: what is inserted into the network, placebos included."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from timm.layers import EcaModule, SEModule
from torch import Tensor, nn

from panet_layers import EMAM, SCAM


class ConstantGate(nn.Module):
    """x times one half, about what fresh gates of a sigmoid do to a map: a damped start and nothing else."""

    gate: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("gate", torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate


class FrozenGate(SEModule):
    """SE with its random weights for ever: gates that differ by image and channel, and have learned nothing."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.requires_grad_(False)


class Arm(NamedTuple):
    """One arm.

    title: its name in tables.
    layer: from a number of channels to the layer to insert; None: the network as it is.
    placebo: whether it is there to be compared with, and cannot help by what it learns.
    """

    title: str
    layer: Callable[[int], nn.Module] | None
    placebo: bool = False


def emam(channels: int) -> EMAM:
    """EMAM with 8 groups, or with the most that divide the channels and 8."""
    return EMAM(channels, math.gcd(channels, 8))


def both(channels: int) -> nn.Sequential:
    """EMAM, then SCAM."""
    return nn.Sequential(emam(channels), SCAM(channels))


NOTHING, CONSTANT, FROZEN = "nothing", "constant", "frozen"
ARMS = {
    NOTHING: Arm("nothing", None),
    "emam": Arm("EMAM", emam),
    "scam": Arm("SCAM", SCAM),
    "both": Arm("EMAM and SCAM", both),
    "se": Arm("SE", SEModule),
    "eca": Arm("ECA", EcaModule),
    CONSTANT: Arm("constant gate (placebo)", lambda channels: ConstantGate(), placebo=True),
    FROZEN: Arm("frozen gate (placebo)", FrozenGate, placebo=True),
}
PLACEBOS = [name for name, arm in ARMS.items() if arm.placebo]
