"""What the kernels compute alike: where a program and its elements stand, and the two gates."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor


class Norm(NamedTuple):
    """What normalises the logits: mean and variance (2), scale (1) and shift (1), None for no normalisation, eps."""

    moments: Tensor
    weight: Tensor | None
    bias: Tensor | None
    eps: float

    def constants(self) -> dict[str, Any]:
        """What a kernel that asks for `pixel_gate` is compiled for."""
        return {"NORM": self.weight is not None, "EPS": self.eps}


@triton.jit
def place(middle, inner):
    """This program's outer, middle and inner index: all on the grid's axis x, the one that reaches to 2^31."""
    program = tl.program_id(0)
    return (program // inner // middle).to(tl.int64), program // inner % middle, program % inner


@triton.jit
def aligned(channels, pixels, CHANNELS_LAST: tl.constexpr, ALIGNMENT: tl.constexpr):
    """The same two numbers, a row's length in a form that shows the compiler its divisor."""
    if CHANNELS_LAST:
        channels = channels // ALIGNMENT * ALIGNMENT
    else:
        pixels = pixels // ALIGNMENT * ALIGNMENT
    return channels, pixels


@triton.jit
def offsets(c, p, channels, pixels, CHANNELS_LAST: tl.constexpr, INDEX: tl.constexpr):
    """Of the elements (channel, pixel) of a tile within their sample."""
    if CHANNELS_LAST:
        return p.to(INDEX)[None, :] * channels + c[:, None]
    else:
        return c.to(INDEX)[:, None] * pixels + p[None, :]


@triton.jit
def element(
    channels,
    pixels,
    CHANNELS_LAST: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
):
    """Of the programs that cover a batch, this one's sample and its tile's channels and pixels.

    Then where the tile starts in memory, where its elements lie from there on, and which of them are there.
    """
    b, block_c, block_p = place(tl.cdiv(channels, BLOCK_CHANNELS), tl.cdiv(pixels, BLOCK_PIXELS))
    lane_c, lane_p = tl.arange(0, BLOCK_CHANNELS), tl.arange(0, BLOCK_PIXELS)
    c, p = block_c * BLOCK_CHANNELS + lane_c, block_p * BLOCK_PIXELS + lane_p
    start = b * channels * pixels
    if CHANNELS_LAST:
        offset = offsets(c, p, channels, pixels, CHANNELS_LAST, INDEX)
    else:  # from the tile's first element, in 64 bits: a thread's pixels are then seen to be a constant apart
        start += tl.cast(block_c * BLOCK_CHANNELS, tl.int64) * pixels + block_p * BLOCK_PIXELS
        offset = offsets(lane_c, lane_p.to(tl.int64), channels, pixels, CHANNELS_LAST, tl.int64)
    return b, c, p, start, offset, (c < channels)[:, None] & (p < pixels)[None, :]


@triton.jit
def normalise(logits, moments, EPS: tl.constexpr):
    return (logits - tl.load(moments)) * (1 / tl.sqrt(tl.load(moments + 1) + EPS))


@triton.jit
def pixel_gate(logits, p, pixels, moments, weight, bias, NORM: tl.constexpr, EPS: tl.constexpr):
    """The spatial attention of pixels, from the convolution's output."""
    return gate_of(tl.load(logits + p, p < pixels, 0), moments, weight, bias, NORM, EPS)


@triton.jit
def gate_of(logits, moments, weight, bias, NORM: tl.constexpr, EPS: tl.constexpr):
    if NORM:
        logits = normalise(logits, moments, EPS) * tl.load(weight) + tl.load(bias)
    return tl.sigmoid(logits)
