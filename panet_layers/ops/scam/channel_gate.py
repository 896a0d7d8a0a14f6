"""The channel gate: two linear layers on what was pooled from the pixels, shared by mean and maximum (Eq. 7)."""

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


def hidden_gradient(dlogits: Tensor, hidden: Tensor, params: Parameters) -> Tensor:
    """Return the gradient before the ReLU, like hidden, for the gradient before the gate's sigmoid (B, C)."""
    return torch.ops.aten.threshold_backward((dlogits @ params.fc2).expand_as(hidden), hidden, 0)


def parameter_gradients(
    dlogits: Tensor, dhidden: Tensor, pooled: Tensor, hidden: Tensor, params: Parameters
) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
    """Return the gradients of fc1, its bias, fc2 and its bias."""
    rows = dhidden.flatten(0, 1)
    fc1_bias = None if params.fc1_bias is None else rows.sum(0)
    fc2_bias = None if params.fc2_bias is None else 2 * dlogits.sum(0)
    return rows.mT @ pooled.flatten(0, 1), fc1_bias, dlogits.mT @ hidden.sum(0), fc2_bias
