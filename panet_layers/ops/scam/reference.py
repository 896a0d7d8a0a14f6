"""SCAM by the paper's formulas, line by line: the oracle of every test and the baseline of every benchmark."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def scam(
    x: Tensor,
    fc1_weight: Tensor,
    fc1_bias: Tensor | None,
    fc2_weight: Tensor,
    fc2_bias: Tensor | None,
    conv_weight: Tensor,
    norm: Callable[[Tensor], Tensor] | None,
) -> Tensor:
    """Return channel attention, then spatial attention (paper III-C, Eq. 6; Woo et al. 2018), of x (B, C, H, W)."""
    refined = channel_attention(x, fc1_weight, fc1_bias, fc2_weight, fc2_bias)
    return spatial_attention(refined, conv_weight, norm)


def channel_attention(
    x: Tensor, fc1_weight: Tensor, fc1_bias: Tensor | None, fc2_weight: Tensor, fc2_bias: Tensor | None
) -> Tensor:
    """Return CA(F) F (Eq. 6 and 7): a gate for each channel, from the average and the maximum over the pixels."""

    def mlp(pooled: Tensor) -> Tensor:
        return F.linear(F.relu(F.linear(pooled, fc1_weight, fc1_bias)), fc2_weight, fc2_bias)

    return gate_channels(x, mlp)


def gate_channels(x: Tensor, mlp: Callable[[Tensor], Tensor]) -> Tensor:
    """Return channel attention with any `mlp` from pooled features (B, C) to logits (B, C)."""
    pixels = x.flatten(2)
    average = pixels.mean(dim=2)
    maximum = pixels.max(dim=2).values
    gate = (mlp(average) + mlp(maximum)).sigmoid()
    return gate[..., None, None] * x  # without slices: torch 2.6 exports them for a batch of bounded size only


def spatial_attention(x: Tensor, conv_weight: Tensor, norm: Callable[[Tensor], Tensor] | None) -> Tensor:
    """Return SA(F) F (Eq. 6 and 8): a gate for each pixel, from the average and the maximum over the channels."""
    padding = [conv_weight.shape[-1] // 2] * 2  # a list: torch.jit.trace of torch 2.6 cannot trace a number
    return gate_pixels(x, lambda maps: F.conv2d(maps, conv_weight, padding=padding), norm)


def gate_pixels(x: Tensor, conv: Callable[[Tensor], Tensor], norm: Callable[[Tensor], Tensor] | None) -> Tensor:
    """Return spatial attention with any `conv` from maps (B, 2, H, W) to logits (B, 1, H, W)."""
    average = x.mean(dim=1, keepdim=True)
    maximum = x.max(dim=1, keepdim=True).values
    logits = conv(torch.cat([average, maximum], dim=1))
    if norm is not None:
        logits = norm(logits)
    return logits.sigmoid() * x
