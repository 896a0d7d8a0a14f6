"""The registered operators of a layer, called as autograd calls them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.layers.cases import Case, EmamCase


def arguments(
    case: Case, layer: nn.Module, x: Tensor, grad: Tensor, suffix: str = "", share: Tensor | None = None
) -> tuple[tuple, tuple, str]:
    """What the forward and the backward operator take, and the name before `_forward`; `suffix` is "" or "_fused"."""
    if isinstance(case, EmamCase):
        name = "emam" + suffix
        params = [p.detach() for p in layer.parameters()]
        forward, settings = (x, *params, case.groups, layer.eps), (case.groups,)
    else:
        name = "scam" + suffix
        mlp, norm = layer.channel, layer.spatial.bn
        params = [mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight, mlp.fc2.bias, layer.spatial.conv.weight]
        params += [norm.weight, norm.bias] if norm else [None, None]
        params = [p if p is None else p.detach() for p in params]
        batch_statistics = bool(norm) and case.training
        running = (norm.running_mean, norm.running_var) if norm and not batch_statistics else (None, None)
        forward, settings = (x, *params, *running, batch_statistics, 1e-5), (batch_statistics, 1e-5)
    if share is not None:
        forward, settings = (*forward, share), (*settings, share)
    _, *saved = getattr(torch.ops.panet_layers, f"{name}_forward")(*forward)
    return forward, (grad, x, *params, *saved, *settings), name


def opcheck(
    case: Case, layer: nn.Module, x: Tensor, grad: Tensor, suffix: str = "", share: Tensor | None = None
) -> None:
    """Forward and backward pass torch's own check of schema, fake tensors and dispatch."""
    forward, backward, name = arguments(case, layer, x, grad, suffix, share)
    torch.library.opcheck(getattr(torch.ops.panet_layers, f"{name}_forward").default, forward)
    torch.library.opcheck(getattr(torch.ops.panet_layers, f"{name}_backward").default, backward)
