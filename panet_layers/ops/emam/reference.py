"""EMAM by the paper's formulas, line by line: the oracle of every test and the baseline of every benchmark."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .tensors import Parameters


def emam(x: Tensor, params: Parameters, groups: int, eps: float) -> Tensor:
    """Return the efficient multi-scale attention of x (B, C, H, W) (paper III-B, Eq. 2-5; Ouyang et al. 2023)."""

    def conv1x1(joint: Tensor) -> Tensor:
        return F.conv2d(joint, params.w1, params.b1)

    def conv3x3(maps: Tensor) -> Tensor:
        return F.conv2d(maps, params.w3, params.b3, padding=1)

    def norm(gated: Tensor) -> Tensor:
        return _normalise(gated, params.gamma, params.beta, eps)

    return attend(x, conv1x1, conv3x3, norm, groups)


def attend(
    x: Tensor,
    conv1x1: Callable[[Tensor], Tensor],
    conv3x3: Callable[[Tensor], Tensor],
    norm: Callable[[Tensor], Tensor],
    groups: int,
) -> Tensor:
    """Return the attention of x with any functions, from maps to maps of the same shape, for the three parts."""
    height, width = x.shape[2:]

    # Eq. 2: G groups of C / G channels. From here on each (sample, group) is an instance.
    x = rearrange(x, "b (g c) h w -> (b g) c h w", g=groups)

    # Eq. 3 and 4: the averages over the width (one for each row) and over the height (one for each column) ...
    row_mean = x.mean(dim=3, keepdim=True)
    column_mean = x.mean(dim=2, keepdim=True)

    # ... go, concatenated along the height, through the 1x1 convolution. Two sigmoids make the gates.
    joint = torch.cat([row_mean, column_mean.transpose(2, 3)], dim=2)
    row_gate, column_gate = conv1x1(joint).split([height, width], dim=2)
    gated = x * row_gate.sigmoid() * column_gate.transpose(2, 3).sigmoid()

    # The 1x1 branch is normalised, with one channel in a norm group; the 3x3 branch is one dense convolution.
    branch1 = norm(gated)  # docs/choices.md: EMAM
    branch2 = conv3x3(x)

    # Eq. 5: each branch, averaged over the pixels and softmaxed over the channels, weighs the other's channels.
    weight1 = branch1.mean(dim=(2, 3)).softmax(dim=1)
    weight2 = branch2.mean(dim=(2, 3)).softmax(dim=1)
    attention = _weighted_sum(weight1, branch2) + _weighted_sum(weight2, branch1)

    out = x * attention.sigmoid()
    return rearrange(out, "(b g) c h w -> b (g c) h w", g=groups)


def _normalise(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Return the group normalisation with one channel in a group; also for a single pixel and for an empty batch."""
    if x.numel() == 0:
        return x * weight[:, None, None] + bias[:, None, None]
    return torch.group_norm(x, x.shape[1], weight, bias, eps)


def _weighted_sum(weight: Tensor, maps: Tensor) -> Tensor:
    """Return the maps (N, K, H, W) summed over their channels with weights (N, K), as (N, 1, H, W)."""
    return torch.bmm(weight[:, None, :], maps.flatten(2)).reshape(-1, 1, *maps.shape[2:])
