"""What SCAM's backends share: the parameters, and what the forward saves for the backward."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from ..precision import accumulation_dtype


class Parameters(NamedTuple):
    """SCAM's parameters; the biases, and the normalisation's two, may be None."""

    fc1: Tensor  # (hidden, C)
    fc1_bias: Tensor | None  # (hidden)
    fc2: Tensor  # (C, hidden)
    fc2_bias: Tensor | None  # (C)
    conv: Tensor  # (1, 2, k, k)
    norm_weight: Tensor | None  # (1)
    norm_bias: Tensor | None  # (1)

    def to(self, dtype: torch.dtype) -> Parameters:
        """Return them contiguous, in this dtype."""
        return Parameters._make(None if p is None else p.to(dtype).contiguous() for p in self)

    def like(self, given: Parameters) -> Parameters:
        """Return these gradients in the given parameters' dtypes, None where the parameter is None."""
        pairs = zip(self, given)
        return Parameters._make(None if g is None or p is None else g.to(p.dtype).contiguous() for g, p in pairs)


@cache
def shapes_of_parameters(channels: int, hidden: int, kernel: int) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of `Parameters`, each where there is one."""
    mlp = (hidden, channels), (hidden,), (channels, hidden), (channels,)
    return *mlp, (1, 2, kernel, kernel), (1,), (1,)


class Running(NamedTuple):
    """The running statistics of the normalisation, (1) each; None without one, or if the batch's own are used."""

    mean: Tensor | None
    variance: Tensor | None


class ChunkedSaved(NamedTuple):
    """What the chunked backward needs beside the input and the parameters."""

    pooled: Tensor  # (2, B, C): mean and maximum over the pixels
    maps: Tensor  # (B, 2, H, W): mean and maximum over the gated channels
    logits: Tensor  # (B, 1, H, W): the convolution's output, before the normalisation
    moments: Tensor  # (2): mean and variance that normalise the logits


class FusedSaved(NamedTuple):
    """What the fused backward needs beside the input and the parameters."""

    pooled: Tensor  # (2, B, C): mean and maximum over the pixels
    top_pixel: Tensor  # (B, C) int32: the first pixel that has the maximum
    hidden: Tensor  # (2, B, hidden): of both, after the ReLU
    gate: Tensor  # (B, C): the channels' attention
    maps: Tensor  # (2, B, H, W): mean and maximum over the gated channels
    top_channel: Tensor  # (B, H, W) int32: the first channel that has the maximum
    logits: Tensor  # (B, H, W): the convolution's output, before the normalisation
    moments: Tensor  # (2): mean and variance that normalise the logits


class NativeSaved(NamedTuple):
    """What the compiled backward needs beside the input and the parameters."""

    saved: Tensor  # one after the other, as native/scam_job.h has them: what was pooled, gates, maps and logits
    moments: Tensor  # (2): mean and variance that normalise the logits


def empty_chunked_saved(x: Tensor) -> ChunkedSaved:
    """Return memory for `ChunkedSaved`."""
    b, c, h, w = x.shape
    shapes = (2, b, c), (b, 2, h, w), (b, 1, h, w), (2,)
    return ChunkedSaved(*(x.new_empty(shape, dtype=accumulation_dtype(x.dtype)) for shape in shapes))


def empty_fused_saved(x: Tensor, params: Parameters) -> FusedSaved:
    """Return memory for `FusedSaved`."""
    b, c, h, w = x.shape
    shapes = (2, b, c), (b, c), (2, b, len(params.fc1)), (b, c), (2, b, h, w), (b, h, w), (b, h, w), (2,)
    saved = FusedSaved(*(x.new_empty(shape, dtype=accumulation_dtype(x.dtype)) for shape in shapes))
    return saved._replace(top_pixel=saved.top_pixel.int(), top_channel=saved.top_channel.int())


def empty_native_saved(x: Tensor, params: Parameters) -> NativeSaved:
    """Return memory for `NativeSaved`; 16 zeros follow the five tensors of which the first consists."""
    b, c, h, w = x.shape
    size = 2 * b * c + 2 * b * params.fc1.shape[0] + b * c + 2 * b * h * w + b * h * w + 16
    dtype = accumulation_dtype(x.dtype)
    return NativeSaved(x.new_empty(size, dtype=dtype), x.new_empty(2, dtype=dtype))
