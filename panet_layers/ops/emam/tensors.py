"""What EMAM's backends share: the parameters, and what the forward saves for the backward.

Symbols are those of docs/derivation.md. B samples of G groups are N = B * G instances, each of K = C / G channels and
P = H * W pixels.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from ..precision import accumulation_dtype


class Parameters(NamedTuple):
    """EMAM's parameters, in the state_dict's order and shapes."""

    w1: Tensor  # (K, K, 1, 1)
    b1: Tensor  # (K)
    w3: Tensor  # (K, K, 3, 3)
    b3: Tensor  # (K)
    gamma: Tensor  # (K)
    beta: Tensor  # (K)

    def to(self, dtype: torch.dtype) -> Parameters:
        """Return them contiguous, in this dtype."""
        return Parameters(*(p.to(dtype).contiguous() for p in self))

    def like(self, given: Parameters) -> Parameters:
        """Return these gradients in the shapes and dtypes of the given parameters."""
        return Parameters(*(gradient.view(p.shape).to(p.dtype) for gradient, p in zip(self, given)))


@cache
def shapes_of_parameters(width: int) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of `Parameters` for K = width."""
    return (width, width, 1, 1), (width,), (width, width, 3, 3), (width,), (width,), (width,)


class Saved(NamedTuple):
    """What the backward needs beside the input and the parameters, in the accumulation dtype."""

    means: Tensor  # (B, G, K, H + W): row means r, then column means s
    gates: Tensor  # (B, G, K, H + W): a, then d
    mean: Tensor  # (B, G, K): mu, the mean of t = x a d
    rstd: Tensor  # (B, G, K): 1 / sqrt(variance of t + eps)
    q: Tensor  # (B, G, K)
    gate: Tensor  # (B, G, P): sigmoid(y)


def empty_saved(x: Tensor, groups: int, channels_innermost: bool = False) -> Saved:
    """Return memory for `Saved`, in `means` and `gates` with H + W innermost, or (B, H + W, G, K) permuted."""
    batch, channels, height, width = x.shape
    k, sides = channels // groups, height + width

    def empty(*shape: int) -> Tensor:
        return x.new_empty((batch, groups, *shape), dtype=accumulation_dtype(x.dtype))

    shape = (sides, groups, k)
    if channels_innermost:
        means, gates = (empty(sides, k).view(batch, *shape).permute(0, 2, 3, 1) for _ in range(2))
    else:
        means, gates = (empty(k, sides) for _ in range(2))
    return Saved(means, gates, empty(k), empty(k), empty(k), empty(height * width))


def clear_unread_taps(dw3: Tensor, height: int, width: int) -> None:
    """Set to zero, in place, the gradient (K, K, 3, 3) of taps that only read padding, beside a single row or column.

    Differences of sums leave a rounding there, and NaN where the input is not finite.
    """
    if height == 1:
        dw3[:, :, ::2] = 0
    if width == 1:
        dw3[..., ::2] = 0


def channels_last(x: Tensor) -> bool:
    """Return whether channels are innermost in the memory of x, which may be a slice, and so in its output's."""
    batch, channels, height, width = x.shape
    if channels == 1 or x.stride(1) != 1 or x.is_contiguous():
        return False
    if batch > 1 and x.stride(0) == 1:  # windows over channels: torch may put the samples of the output innermost
        return False
    return (height == 1 or x.stride(2) >= channels) and (width == 1 or x.stride(3) >= channels)
