"""The channel gate: two linear layers on the mean and the maximum over the pixels (Eq. 7; docs/derivation.md)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .tensors import Parameters


def hidden_features(pooled: Tensor, params: Parameters) -> Tensor:
    """Return the first layer's output after the ReLU, (2, B, hidden), for the pooled mean and maximum (2, B, C)."""
    return F.linear(pooled, params.fc1, params.fc1_bias).relu_()


def channel_gate(hidden: Tensor, params: Parameters) -> Tensor:
    """Return the gate (B, C). The second layer is linear, so it runs once, on the sum of both."""
    both = hidden.sum(0)
    if params.fc2_bias is None:
        return torch.mm(both, params.fc2.mT).sigmoid_()
    return torch.addmm(params.fc2_bias, both, params.fc2.mT, beta=2).sigmoid_()


def hidden_gradient(dv: Tensor, hidden: Tensor, params: Parameters) -> Tensor:
    """Return the gradient before the ReLU, like hidden, for dv (B, C), that before the gate's sigmoid."""
    return torch.ops.aten.threshold_backward((dv @ params.fc2).expand_as(hidden), hidden, 0)


def parameter_gradients(
    dv: Tensor, dhidden: Tensor, pooled: Tensor, hidden: Tensor, params: Parameters
) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
    """Return the gradients of fc1, its bias, fc2 and its bias."""
    rows = dhidden.flatten(0, 1)
    fc1_bias = None if params.fc1_bias is None else rows.sum(0)
    fc2_bias = None if params.fc2_bias is None else 2 * dv.sum(0)
    return rows.mT @ pooled.flatten(0, 1), fc1_bias, dv.mT @ hidden.sum(0), fc2_bias
