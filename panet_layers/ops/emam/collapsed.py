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

from .windows import Windows


def emam(
    x: Tensor,
    conv1x1_weight: Tensor,
    conv1x1_bias: Tensor,
    conv3x3_weight: Tensor,
    conv3x3_bias: Tensor,
    gn_weight: Tensor,
    gn_bias: Tensor,
    groups: int,
    eps: float,
) -> Tensor:
    """As the reference's `emam`, x (B, C, H, W), with one output channel in place of a dense convolution."""
    height, width = x.shape[2:]
    x = rearrange(x, "b (g c) h w -> (b g) c h w", g=groups)
    means = torch.cat([x.mean(dim=3), x.mean(dim=2)], dim=2)
    gates = (conv1x1_weight.flatten(1) @ means + conv1x1_bias[:, None]).sigmoid()
    row_gate, column_gate = gates.split([height, width], dim=2)

    gated = x * row_gate[..., None] * column_gate[:, :, None]
    centred = gated - gated.mean(dim=(2, 3), keepdim=True)
    rstd = (centred.square().mean(dim=(2, 3)) + eps).rsqrt()

    weight1 = gn_bias.softmax(dim=0)
    windows = Windows(height, width, x).sums(means, x).flatten(1)
    branch2_mean = windows @ conv3x3_weight.flatten(1).mT / (height * width) + conv3x3_bias
    weight2 = branch2_mean.softmax(dim=1)

    from_branch2 = F.conv2d(x, torch.einsum("o,ockl->ckl", weight1, conv3x3_weight)[None], padding=1)
    from_branch1 = torch.einsum("nc,nchw->nhw", weight2 * gn_weight * rstd, centred)[:, None]
    constant = weight2 @ gn_bias + weight1 @ conv3x3_bias
    out = x * (from_branch2 + from_branch1 + constant[:, None, None, None]).sigmoid()
    return rearrange(out, "(b g) c h w -> b (g c) h w", g=groups)
