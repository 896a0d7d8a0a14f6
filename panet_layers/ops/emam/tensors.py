"""What EMAM's backends share: the parameters, and what the forward saves for the backward.

Symbols are those of docs/derivation.md. B samples of G groups are N = B * G instances, each of K = C / G channels and
P = H * W pixels.
"""

from __future__ import annotations

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


class Saved(NamedTuple):
    """What the backward needs beside the input and the parameters, in the accumulation dtype."""

    means: Tensor  # (B, G, K, H + W): row means r, then column means s
    gates: Tensor  # (B, G, K, H + W): a, then d
    mean: Tensor  # (B, G, K): mu, the mean of t = x a d
    rstd: Tensor  # (B, G, K): 1 / sqrt(variance of t + eps)
    q: Tensor  # (B, G, K)
    gate: Tensor  # (B, G, P): sigmoid(y)


def empty_saved(x: Tensor, groups: int) -> Saved:
    """Return memory for `Saved`, contiguous."""
    batch, channels, height, width = x.shape
    k = channels // groups
    shapes: list[tuple[int, ...]] = [(k, height + width), (k, height + width), (k,), (k,), (k,), (height * width,)]
    return Saved(*(x.new_empty((batch, groups, *shape), dtype=accumulation_dtype(x.dtype)) for shape in shapes))


def empty_saved_like_x(x: Tensor, groups: int) -> Saved:
    """Return memory for `Saved`; where x is channels_last, K is innermost in means and gates too."""
    saved = empty_saved(x, groups)
    if not channels_last(x):
        return saved
    return saved._replace(means=_channels_innermost(saved.means), gates=_channels_innermost(saved.gates))


def _channels_innermost(sides: Tensor) -> Tensor:
    return sides.view(*sides.shape[:2], sides.shape[3], sides.shape[2]).mT


def channels_last(x: Tensor) -> bool:
    """Return whether channels are innermost in x's memory (or a slice's), and so will be in its output and gradient."""
    _, channels, height, width = x.shape
    if channels == 1 or x.stride(1) != 1 or x.is_contiguous():
        return False
    return (height == 1 or x.stride(2) >= channels) and (width == 1 or x.stride(3) >= channels)
