"""How far from the float64 answer a result in lower precision may be, and the plain formulas that set the measure."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor, nn

from panet_layers import EMAM
from panet_layers.ops.emam import reference as emam_reference
from panet_layers.ops.emam.tensors import Parameters
from panet_layers.ops.scam import reference as scam_reference
from tests.layers.cases import Case, run, tensors, with_backend


class Plain(nn.Module):
    """The plain formulas in the precision of the tensors, no float32 anywhere."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        parameters = [p for _, p in self.layer.named_parameters()]
        if isinstance(self.layer, EMAM):
            return emam_reference.emam(x, Parameters(*parameters), self.layer.groups, self.layer.eps)
        channel, spatial = self.layer.channel, self.layer.spatial
        mlp = channel.fc1.weight, channel.fc1.bias, channel.fc2.weight, channel.fc2.bias
        return scam_reference.scam(x, *mlp, spatial.conv.weight, spatial.bn)


def plain_run(layer: nn.Module, x: Tensor, grad: Tensor) -> dict[str, Tensor]:
    """As `run`, by the plain formulas in the precision of the tensors."""
    outcome = run(Plain(with_backend(layer, "reference")), x, grad)
    return {name.replace("layer.", ""): value for name, value in outcome.items()}


def lowered(case: Case, dtype: torch.dtype, shift: float = 0.0, seed: int = 0) -> tuple[tuple, tuple]:
    """A layer, an input and a gradient in `dtype`, and the same numbers in float64 for the reference."""
    x, grad = (t.to(dtype) for t in tensors(case, seed + 1))
    x = x + shift
    layer = case.layer(seed, dtype=dtype)
    return (layer, x, grad), (with_backend(layer, "reference").double(), x.double(), grad.double())


class Budget:
    """At most twice as far from the float64 answer as the plain formulas in the same precision, plus a rounding.

    Distances are summed over draws: in a single one, the plain formulas may be close by luck.
    """

    def __init__(self) -> None:
        self.actual, self.plain, self.rounding = defaultdict(float), defaultdict(float), defaultdict(float)

    def add(
        self, outcome: dict[str, Tensor], plain: dict[str, Tensor], exact: dict[str, Tensor], dtype: torch.dtype
    ) -> None:
        """Count one draw, computed in `dtype`."""
        assert outcome["output"].dtype == dtype
        for name, value in exact.items():
            assert outcome[name].shape == value.shape and outcome[name].dtype == plain[name].dtype, name
            self.actual[name] += _square(outcome[name] - value)
            self.plain[name] += _square(plain[name] - value)
            self.rounding[name] += _square(torch.finfo(dtype).eps * value)

    def check(self) -> None:
        allowed = {name: 2 * self.plain[name] ** 0.5 + self.rounding[name] ** 0.5 for name in self.actual}
        distances = {name: (square**0.5, allowed[name]) for name, square in self.actual.items()}
        assert {name: pair for name, pair in distances.items() if not pair[0] <= pair[1]} == {}


def _square(difference: Tensor) -> float:
    return difference.double().square().sum().item()
