"""The Triton kernels over SCAM's two maps, [mean, maximum] over the channels, and their launchers.

The maps are small, and the work on each pixel is not. A program walks over tiles of (taps of the convolution, pixels),
of which it takes a pixel's sums over the taps and a tap's over the pixels. It is one warp with pixels in all lanes:
sums over taps need no exchange between threads, those over pixels none between warps.
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

PIXELS, SPLITS = 128, 16  # a tile's extents, twice the pixels where splits are added up; splits at most
TAPS = 1  # of a row of the convolution, in a tile; with more, Triton's interpreter has fewer tiles to go through


@triton.jit
def _pixels(height, width, BLOCK_PIXELS: tl.constexpr):
    """Of the programs that cover a batch, this one's sample and its pixels: numbers, rows, columns."""
    b, _, block = place(1, tl.cdiv(height * width, BLOCK_PIXELS))
    p = block * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    return b, p, p // width, p % width


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
    b, p, h, w = _pixels(height, width, BLOCK_PIXELS)
    total = tl.zeros([BLOCK_PIXELS], logits.dtype.element_ty)
    for row in range(KERNEL):
        down = row - KERNEL // 2
        in_row = (p < pixels) & (h + down >= 0) & (h + down < height)
        for start in tl.static_range(0, KERNEL, BLOCK_TAPS):
            column = start + tl.arange(0, BLOCK_TAPS)[:, None]
            right = column - KERNEL // 2
            inside = in_row[None, :] & (w[None, :] + right >= 0) & (w[None, :] + right < width) & (column < KERNEL)
            for i in tl.static_range(2):
                tap = tl.load(weight + (i * KERNEL + row) * KERNEL + column, column < KERNEL, 0)
                value = tl.load(maps + (i * batch + b) * pixels + down * width + (p[None, :] + right), inside, 0)
                total += tl.sum(tap * value, 0)
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
    b, p, h, w = _pixels(height, width, BLOCK_PIXELS)
    ACC: tl.constexpr = dmaps.dtype.element_ty
    dmean = tl.zeros([BLOCK_PIXELS], ACC)
    dtop = tl.zeros([BLOCK_PIXELS], ACC)
    mean = tl.load(maps + b * pixels + p, p < pixels, 0)
    top = tl.load(maps + (batch + b) * pixels + p, p < pixels, 0)
    dweight += tl.program_id(0).to(tl.int64) * 2 * KERNEL * KERNEL
    if NORM:
        scale = tl.load(norm_weight) / tl.sqrt(tl.load(moments + 1) + EPS)
    for row in range(KERNEL):
        down = KERNEL // 2 - row
        in_row = (p < pixels) & (h + down >= 0) & (h + down < height)
        for start in tl.static_range(0, KERNEL, BLOCK_TAPS):
            column = start + tl.arange(0, BLOCK_TAPS)[:, None]
            right = KERNEL // 2 - column  # the taps' reflections: the pixels that read this one
            inside = in_row[None, :] & (w[None, :] + right >= 0) & (w[None, :] + right < width) & (column < KERNEL)
            neighbour = b * pixels + down * width + (p[None, :] + right)
            dlogit = tl.load(dscores + neighbour, inside, 0)
            if NORM:
                if OF_BATCH:
                    normalised = normalise(tl.load(logits + neighbour, inside, 0), moments, EPS)
                    count = batch * pixels.to(ACC)
                    dlogit -= (normalised * tl.load(dnorm_weight) + tl.load(dnorm_bias)) / count
                dlogit = tl.where(inside, dlogit * scale, 0)
            of_mean, of_top = row * KERNEL + column, (KERNEL + row) * KERNEL + column
            dmean += tl.sum(dlogit * tl.load(weight + of_mean, column < KERNEL, 0), 0)
            dtop += tl.sum(dlogit * tl.load(weight + of_top, column < KERNEL, 0), 0)
            by_mean = tl.sum(tl.where(inside, dlogit * mean[None, :], 0), 1)[:, None]
            by_top = tl.sum(tl.where(inside, dlogit * top[None, :], 0), 1)[:, None]
            tl.store(dweight + of_mean, by_mean, column < KERNEL)
            tl.store(dweight + of_top, by_top, column < KERNEL)
    tl.store(dmaps + b * pixels + p, dmean / channels, p < pixels)
    tl.store(dmaps + (batch + b) * pixels + p, dtop, p < pixels)


def convolve(maps: Tensor, weight: Tensor) -> Tensor:
    """maps (2, B, H, W) by weight (1, 2, k, k), k odd, zeros around -> (B, H, W)."""
    _, batch, height, width = maps.shape
    logits = torch.empty_like(maps[0])
    grid, constants = _cover(logits, weight)
    _convolve_kernel[grid](maps, weight, logits, batch, height, width, **constants)
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
    programs, splits = triton.cdiv(size, 2 * PIXELS), min(SPLITS, triton.next_power_of_2(len(pixel_sums)))
    dscores, dmaps = torch.empty_like(logits), torch.empty_like(maps)
    dnorm = [None if norm.weight is None else logits.new_empty(programs) for _ in "wb"]
    _pixel_gradient_kernel[(programs,)](
        *(pixel_sums, logits, *norm[:3], dscores, *dnorm, size, len(pixel_sums)),
        **norm.constants(),
        BLOCK_SPLITS=splits,
        BLOCK_PIXELS=2 * PIXELS,
        num_warps=min(WARPS, splits),
    )
    dnorm = [None if part is None else part.sum(0, keepdim=True) for part in dnorm]
    grid, constants = _cover(logits, weight)
    dweight = weight.new_empty((*grid, *weight.shape[1:]))
    _convolve_backward_kernel[grid](
        *(dscores, logits, norm.moments, norm.weight, *dnorm, maps, weight, dmaps, dweight),
        *(batch, channels, height, width),
        **norm.constants(),
        **constants,
        OF_BATCH=of_batch,
    )
    return MapGradients(dmaps, dweight.sum(0, keepdim=True), *dnorm)


def _cover(logits: Tensor, weight: Tensor) -> tuple[tuple[int], dict[str, int]]:
    """The grid of programs that covers the maps once, and what their code is compiled for."""
    batch, height, width = logits.shape
    constants = {"KERNEL": weight.shape[-1], "BLOCK_TAPS": TAPS, "BLOCK_PIXELS": PIXELS, "num_warps": 1}
    return (batch * triton.cdiv(height * width, PIXELS),), constants
