"""EMAM by exact algebra: the dense 3x3 convolution is never computed. Plain torch, differentiable again and again.

The convolution's output is used only through one fixed combination of its channels (a convolution with one output
channel, because the softmaxed mean of the normalised branch is the softmax of that branch's bias, whatever the input)
and through its mean, which is linear in nine window sums a channel.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .tensors import Parameters


def emam(x: Tensor, params: Parameters, groups: int, eps: float) -> Tensor:
    """As the reference's `emam`, x (B, C, H, W), with one output channel in place of a dense convolution."""
    height, width = x.shape[2:]
    x = rearrange(x, "b (g c) h w -> (b g) c h w", g=groups)
    means = torch.cat([x.mean(dim=3), x.mean(dim=2)], dim=2)
    gates = (params.w1.flatten(1) @ means + params.b1[:, None]).sigmoid()
    row_gate, column_gate = gates[..., :height], gates[..., height:]

    gated = x * row_gate[..., None] * column_gate[:, :, None]
    centred = gated - gated.mean(dim=(2, 3), keepdim=True)
    rstd = (centred.square().mean(dim=(2, 3)) + eps).rsqrt()

    weight1 = params.beta.softmax(dim=0)
    windows = window_sums(x, means[..., height:] * height).flatten(1)
    branch2_mean = F.linear(windows / (height * width), params.w3.flatten(1), params.b3)
    weight2 = branch2_mean.softmax(dim=1)

    taps = (weight1 @ params.w3.flatten(1)).reshape(1, -1, 3, 3)
    from_branch2 = F.conv2d(x, taps, padding=1)
    scale = weight2 * params.gamma * rstd
    from_branch1 = torch.bmm(scale[:, None], centred.flatten(2)).unflatten(2, (height, width))
    constant = weight2 @ params.beta + weight1 @ params.b3
    out = x * (from_branch2 + from_branch1 + constant[:, None, None, None]).sigmoid()
    return rearrange(out, "(b g) c h w -> b (g c) h w", g=groups)


def window_sums(x: Tensor, columns: Tensor) -> Tensor:
    """What each tap (ky, kx) of a zero-padded 3x3 kernel sees in all, (N, K, 3, 3), of x and its column sums.

    Only one border row, or one border column, stays out of the reach of an outer tap.
    """
    rows = torch.stack([columns - x[:, :, -1], columns, columns - x[:, :, 0]], dim=2)
    total = rows.sum(dim=3)
    return torch.stack([total - rows[..., -1], total, total - rows[..., 0]], dim=3)
