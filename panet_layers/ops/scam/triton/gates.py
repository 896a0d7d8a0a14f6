"""The elementwise passes: the output, and the gradient of the input."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .elements import Norm, aligned, element, pixel_gate
from .tiling import SIZES, cover, layout, sizes


def apply_gates(x: Tensor, gate: Tensor, logits: Tensor, norm: Norm) -> Tensor:
    """x times gate (B, C) times the sigmoid of the normalised logits (B, P), like x."""
    _, channels, pixels = sizes(x)
    out = torch.empty_like(x)
    grid, blocks = cover(x)
    _apply_gates_kernel[grid](
        *(x, out, gate, logits, *norm[:3], channels, pixels), **norm.constants(), **layout(x), **blocks
    )
    return out


@triton.jit(do_not_specialize=SIZES)
def _apply_gates_kernel(
    x,
    out,
    gate,
    logits,
    moments,
    norm_weight,
    norm_bias,
    channels,
    pixels,
    NORM: tl.constexpr,
    EPS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    ACC: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
):
    channels, pixels = aligned(channels, pixels, CHANNELS_LAST, ALIGNMENT)
    b, c, p, start, offset, inside = element(channels, pixels, CHANNELS_LAST, INDEX, BLOCK_CHANNELS, BLOCK_PIXELS)

    of_channel = tl.load(gate + b * channels + c, c < channels, 0)
    of_pixel = pixel_gate(logits + b * pixels, p, pixels, moments, norm_weight, norm_bias, NORM, EPS)
    value = tl.load(x + start + offset, inside, 0).to(ACC) * of_channel[:, None] * of_pixel[None, :]
    tl.store(out + start + offset, value.to(out.dtype.element_ty), inside)


def input_gradient(
    grad: Tensor,
    dx: Tensor,
    gate: Tensor,
    logits: Tensor,
    norm: Norm,
    dmaps: Tensor,
    top_channel: Tensor,
    dpooled: Tensor,
    top_pixel: Tensor,
) -> None:
    """dx from grad and the gradients of the maps (2, B, P) and of what was pooled over the pixels (2, B, C)."""
    grid, blocks = cover(dx)
    _input_gradient_kernel[grid](
        *(grad, dx, gate, logits, *norm[:3], dmaps, top_channel, dpooled, top_pixel, *sizes(dx)),
        **norm.constants(),
        **layout(dx),
        **blocks,
    )


@triton.jit(do_not_specialize=SIZES)
def _input_gradient_kernel(
    grad,
    dx,
    gate,
    logits,
    moments,
    norm_weight,
    norm_bias,
    dmaps,
    top_channel,
    dpooled,
    top_pixel,
    batch,
    channels,
    pixels,
    NORM: tl.constexpr,
    EPS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    ACC: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
):
    channels, pixels = aligned(channels, pixels, CHANNELS_LAST, ALIGNMENT)
    b, c, p, start, offset, inside = element(channels, pixels, CHANNELS_LAST, INDEX, BLOCK_CHANNELS, BLOCK_PIXELS)

    of_channel = tl.load(gate + b * channels + c, c < channels, 0)
    daverage = tl.load(dpooled + b * channels + c, c < channels, 0) / pixels
    dtop_pixel = daverage + tl.load(dpooled + (batch + b) * channels + c, c < channels, 0)
    is_top_pixel = tl.load(top_pixel + b * channels + c, c < channels, -1)[:, None] == p[None, :]
    of_pixel = pixel_gate(logits + b * pixels, p, pixels, moments, norm_weight, norm_bias, NORM, EPS)
    dmean = tl.load(dmaps + b * pixels + p, p < pixels, 0)
    dtop_channel = dmean + tl.load(dmaps + (batch + b) * pixels + p, p < pixels, 0)
    is_top_channel = tl.load(top_channel + b * pixels + p, p < pixels, -1)[None, :] == c[:, None]

    dgated = tl.load(grad + start + offset, inside, 0).to(ACC) * of_pixel[None, :]
    dgated += tl.where(is_top_channel, dtop_channel[None, :], dmean[None, :])
    value = dgated * of_channel[:, None] + tl.where(is_top_pixel, dtop_pixel[:, None], daverage[:, None])
    tl.store(dx + start + offset, value.to(dx.dtype.element_ty), inside)
