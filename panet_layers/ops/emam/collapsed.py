"""EMAM for export, torch.func and second derivatives; on ordinary calls the backend "collapsed" runs chunked.py.

Plain torch operations. The dense 3x3 convolution is never computed (docs/derivation.md), since the output uses only one
fixed combination of its channels, and its mean, which is linear in nine window sums for each channel.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .tensors import Parameters


def emam(x: Tensor, params: Parameters, groups: int, eps: float) -> Tensor:
    """Return what the reference's `emam` returns, for x (B, C, H, W)."""
    height, width = x.shape[2:]
    x = rearrange(x, "b (g c) h w -> (b g) c h w", g=groups)
    means = torch.cat([x.mean(dim=3), x.mean(dim=2)], dim=2)
    gates = (params.w1.flatten(1) @ means + params.b1[:, None]).sigmoid()
    row_gate, column_gate = gates[..., :height], gates[..., height:]

    gated = x * row_gate[..., None] * column_gate[:, :, None]
    centred = gated - gated.mean(dim=(2, 3), keepdim=True)
    rstd = (centred.square().mean(dim=(2, 3)) + eps).rsqrt()

    weight1 = params.beta.softmax(dim=0)
    sums = window_sums(x, means[..., height:] * height).flatten(1)
    branch2_mean = F.linear(sums / (height * width), params.w3.flatten(1), params.b3)
    weight2 = branch2_mean.softmax(dim=1)

    taps = (weight1 @ params.w3.flatten(1)).reshape(1, -1, 3, 3)
    from_branch2 = F.conv2d(x, taps, padding=1)
    scale = weight2 * params.gamma * rstd
    from_branch1 = torch.bmm(scale[:, None], centred.flatten(2)).reshape(-1, 1, height, width)
    constant = weight2 @ params.beta + weight1 @ params.b3
    out = x * (from_branch2 + from_branch1 + constant[:, None, None, None]).sigmoid()
    return rearrange(out, "(b g) c h w -> b (g c) h w", g=groups)


def window_sums(x: Tensor, columns: Tensor) -> Tensor:
    """Return the sum of what each tap (ky, kx) of a zero-padded 3x3 kernel reads of x: S (N, K, 3, 3).

    An outer tap misses one border row, or one border column. `columns` (N, K, W) are the column sums of x.
    """
    rows = torch.stack([columns - x[:, :, -1], columns, columns - x[:, :, 0]], dim=2)
    total = rows.sum(dim=3)
    return torch.stack([total - rows[..., -1], total, total - rows[..., 0]], dim=3)
