"""The Triton kernels over SCAM's two maps, [mean, maximum] over the channels, and their launchers.

The maps are small, and the work on each pixel is not: a program makes one tile of (taps of the convolution, pixels), of
which it takes a pixel's sums over the taps and a tap's over the pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...products import rounded_product
from .elements import Norm, gate_of, normalise, place
from .tiling import SIZES, WARPS

PIXELS, TAPS, SPLITS = 64, 64, 16  # a tile's extents


@triton.jit
def _neighbours(p, tap, height, width, SIGN: tl.constexpr, KERNEL: tl.constexpr):
    """Where each tap, or its reflection (SIGN -1), of a pixel lies, (taps, pixels), and whether inside the map.

    Counted from the pixel, so that the compiler sees that neighbouring pixels' taps are neighbours.
    """
    down, right = SIGN * (tap // KERNEL - KERNEL // 2), SIGN * (tap % KERNEL - KERNEL // 2)
    h, w = (p // width)[None, :] + down[:, None], (p % width)[None, :] + right[:, None]
    of_both = (p < height * width)[None, :] & (tap < KERNEL * KERNEL)[:, None]
    at = p[None, :] + (down * width + right)[:, None]
    return at, of_both & (h >= 0) & (h < height) & (w >= 0) & (w < width)


@triton.jit(do_not_specialize=[*SIZES, "height", "width"])
def _convolve_kernel(
    maps,
    weight,
    logits,
    batch,
    height,
    width,
    KERNEL: tl.constexpr,
    BLOCK_TAPS: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
):
    pixels = height * width
    b, _, block = place(1, tl.cdiv(pixels, BLOCK_PIXELS))
    p = block * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    total = tl.zeros([BLOCK_PIXELS], logits.dtype.element_ty)
    for start in range(0, KERNEL * KERNEL, BLOCK_TAPS):
        tap = start + tl.arange(0, BLOCK_TAPS)
        neighbour, inside = _neighbours(p, tap, height, width, 1, KERNEL)
        for i in tl.static_range(2):
            tap_weight = tl.load(weight + i * KERNEL * KERNEL + tap, tap < KERNEL * KERNEL, 0)
            value = tl.load(maps + (i * batch + b) * pixels + neighbour, inside, 0)
            total += tl.sum(rounded_product(tap_weight[:, None], value), 0)
    tl.store(logits + b * pixels + p, total, p < pixels)


@triton.jit(do_not_specialize=SIZES)
def _pixel_gradient_kernel(
    pixel_sums,
    logits,
    moments,
    norm_weight,
    norm_bias,
    dscores,
    dnorm_weight,
    dnorm_bias,
    size,
    splits,
    NORM: tl.constexpr,
    EPS: tl.constexpr,
    BLOCK_SPLITS: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
):
    program = tl.program_id(0)
    n = program.to(tl.int64) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    total = tl.zeros([BLOCK_PIXELS], dscores.dtype.element_ty)
    for start in range(0, splits, BLOCK_SPLITS):
        split = start + tl.arange(0, BLOCK_SPLITS)
        inside = (split < splits)[:, None] & (n < size)[None, :]
        total += tl.sum(tl.load(pixel_sums + split[:, None] * size.to(tl.int64) + n[None, :], inside, 0), 0)
    logit = tl.load(logits + n, n < size, 0)
    gate = gate_of(logit, moments, norm_weight, norm_bias, NORM, EPS)
    dscore = total * gate * (1 - gate)
    tl.store(dscores + n, dscore, n < size)
    if NORM:
        dscore = tl.where(n < size, dscore, 0)
        tl.store(dnorm_weight + program, tl.sum(rounded_product(dscore, normalise(logit, moments, EPS)), 0))
        tl.store(dnorm_bias + program, tl.sum(dscore, 0))


@triton.jit(do_not_specialize=[*SIZES, "height", "width"])
def _convolve_backward_kernel(
    dscores,
    logits,
    moments,
    norm_weight,
    dnorm_weight,
    dnorm_bias,
    maps,
    weight,
    dmaps,
    dweight,
    batch,
    channels,
    height,
    width,
    NORM: tl.constexpr,
    EPS: tl.constexpr,
    OF_BATCH: tl.constexpr,
    KERNEL: tl.constexpr,
    BLOCK_TAPS: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
):
    pixels = height * width
    b, _, block = place(1, tl.cdiv(pixels, BLOCK_PIXELS))
    p = block * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    ACC: tl.constexpr = dmaps.dtype.element_ty
    dmean = tl.zeros([BLOCK_PIXELS], ACC)
    dtop = tl.zeros([BLOCK_PIXELS], ACC)
    mean = tl.load(maps + b * pixels + p, p < pixels, 0)
    top = tl.load(maps + (batch + b) * pixels + p, p < pixels, 0)
    dweight += tl.program_id(0).to(tl.int64) * 2 * KERNEL * KERNEL
    for start in range(0, KERNEL * KERNEL, BLOCK_TAPS):
        tap = start + tl.arange(0, BLOCK_TAPS)
        of_tap = tap < KERNEL * KERNEL
        neighbour, inside = _neighbours(p, tap, height, width, -1, KERNEL)
        dlogit = tl.load(dscores + b * pixels + neighbour, inside, 0)
        if NORM:
            if OF_BATCH:
                normalised = normalise(tl.load(logits + b * pixels + neighbour, inside, 0), moments, EPS)
                count = batch * pixels.to(ACC)
                dlogit -= (normalised * tl.load(dnorm_weight) + tl.load(dnorm_bias)) / count
            dlogit = tl.where(inside, dlogit * (tl.load(norm_weight) / tl.sqrt(tl.load(moments + 1) + EPS)), 0)
        of_mean = tl.load(weight + tap, of_tap, 0)[:, None]
        of_maximum = tl.load(weight + KERNEL * KERNEL + tap, of_tap, 0)[:, None]
        dmean += tl.sum(rounded_product(dlogit, of_mean), 0)
        dtop += tl.sum(rounded_product(dlogit, of_maximum), 0)
        tl.store(dweight + tap, tl.sum(tl.where(inside, dlogit * mean[None, :], 0), 1), of_tap)
        of_top = tl.sum(tl.where(inside, dlogit * top[None, :], 0), 1)
        tl.store(dweight + KERNEL * KERNEL + tap, of_top, of_tap)
    tl.store(dmaps + b * pixels + p, dmean / channels, p < pixels)
    tl.store(dmaps + (batch + b) * pixels + p, dtop, p < pixels)


def convolve(maps: Tensor, weight: Tensor) -> Tensor:
    """maps (2, B, H, W) by weight (1, 2, k, k), k odd, zeros around -> (B, H, W)."""
    _, batch, height, width = maps.shape
    logits = torch.empty_like(maps[0])
    _convolve_kernel[_grid(logits)](maps, weight, logits, batch, height, width, **_constants(weight))
    return logits


class MapGradients(NamedTuple):
    """The gradients that `convolve_backward` gives."""

    maps: Tensor  # (2, B, H, W), that of the mean divided by the channels
    weight: Tensor
    norm_weight: Tensor | None
    norm_bias: Tensor | None


def convolve_backward(
    pixel_sums: Tensor, logits: Tensor, norm: Norm, of_batch: bool, maps: Tensor, weight: Tensor, channels: int
) -> MapGradients:
    """From the partial sums (T, B, P) of the spatial gate's gradient; `of_batch`: the moments are the logits' own."""
    batch, height, width = logits.shape
    size = logits.numel()
    programs = triton.cdiv(size, PIXELS)
    dscores, dmaps = torch.empty_like(logits), torch.empty_like(maps)
    dnorm = [None if norm.weight is None else logits.new_empty(programs) for _ in "wb"]
    _pixel_gradient_kernel[(programs,)](
        *(pixel_sums, logits, *norm[:3], dscores, *dnorm, size, len(pixel_sums)),
        **norm.constants(),
        BLOCK_SPLITS=SPLITS,
        BLOCK_PIXELS=PIXELS,
        num_warps=WARPS,
    )
    dnorm = [None if part is None else part.sum(0, keepdim=True) for part in dnorm]
    grid = _grid(logits)
    dweight = weight.new_empty((*grid, *weight.shape[1:]))
    _convolve_backward_kernel[grid](
        *(dscores, logits, norm.moments, norm.weight, *dnorm, maps, weight, dmaps, dweight),
        *(batch, channels, height, width),
        **norm.constants(),
        **_constants(weight),
        OF_BATCH=of_batch,
    )
    return MapGradients(dmaps, dweight.sum(0, keepdim=True), *dnorm)


def _grid(logits: Tensor) -> tuple[int]:
    batch, height, width = logits.shape
    return (batch * triton.cdiv(height * width, PIXELS),)


def _constants(weight: Tensor) -> dict[str, int]:
    size = weight.shape[-1]
    taps = min(TAPS, triton.next_power_of_2(size * size))
    return {"KERNEL": size, "BLOCK_TAPS": taps, "BLOCK_PIXELS": PIXELS, "num_warps": WARPS}
