"""Mean, maximum and the maximum's first position: of a channel over its pixels, of a pixel over the gated channels."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...precision import accumulation_dtype
from .elements import aligned, offsets, place
from .tiling import SIZES, WARPS, channels_last, constants, cut_along, cut_down, share, sizes


def pool_pixels(x: Tensor) -> tuple[Tensor, Tensor]:
    """(2, B, C): mean and maximum of x over the pixels; (B, C) int32: the first pixel that has the maximum."""
    batch, channels, pixels = sizes(x)
    return _pool(x, None, (batch, channels), pixels, not channels_last(x))


def pool_channels(x: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    """(2, B, P): mean and maximum of x gate (B, C) over the channels; (B, P) int32: the first channel that has it."""
    batch, channels, pixels = sizes(x)
    return _pool(x, gate, (batch, pixels), channels, channels_last(x))


def _pool(
    x: Tensor, gate: Tensor | None, shape: tuple[int, int], reduced: int, reduced_last: bool
) -> tuple[Tensor, Tensor]:
    batch, kept = shape
    tile = cut_along(x, kept, reduced) if reduced_last else cut_down(x, reduced, kept)
    programs, splits, steps = share(x, kept, reduced, tile)
    pooled = x.new_empty((2, splits, *shape), dtype=accumulation_dtype(x.dtype))
    position = x.new_empty((splits, *shape), dtype=torch.int32)
    _pool_kernel[(programs,)](
        *(x, gate, *pooled, position, batch, kept, reduced, splits, steps),
        **constants(x),
        REDUCED_LAST=reduced_last,
        GATED=gate is not None,
        BLOCK_KEPT=tile[0],
        BLOCK_REDUCED=tile[1],
        num_warps=WARPS,
    )
    if splits == 1:
        return pooled[:, 0], position[0]
    result, first = pooled.new_empty((2, *shape)), position.new_empty(shape)
    size = first.numel()
    _combine_kernel[(triton.cdiv(size, 32),)](
        *(*pooled, position, *result, first, size, reduced, splits), BLOCK=32, BLOCK_SPLITS=32, num_warps=WARPS
    )
    return result, first


@triton.jit(do_not_specialize=SIZES)
def _pool_kernel(
    x,
    gate,
    mean,
    top,
    position,
    batch,
    kept,
    reduced,
    splits,
    steps,
    REDUCED_LAST: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    GATED: tl.constexpr,
    ACC: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_KEPT: tl.constexpr,
    BLOCK_REDUCED: tl.constexpr,
):
    kept, reduced = aligned(kept, reduced, not REDUCED_LAST, ALIGNMENT)
    b, block, split = place(tl.cdiv(kept, BLOCK_KEPT), splits)
    k = block * BLOCK_KEPT + tl.arange(0, BLOCK_KEPT)
    lanes = tl.arange(0, BLOCK_REDUCED)
    first = split * steps * BLOCK_REDUCED
    x += b * kept * reduced
    total = tl.zeros([BLOCK_KEPT, BLOCK_REDUCED], ACC)
    best = tl.full([BLOCK_KEPT, BLOCK_REDUCED], float("-inf"), ACC)
    index = tl.zeros([BLOCK_KEPT, BLOCK_REDUCED], tl.int32) + (first + lanes)[None, :]
    for step in range(steps):
        r = first + step * BLOCK_REDUCED + lanes
        inside = (r < reduced)[None, :]
        offset = offsets(k, r, kept, reduced, not REDUCED_LAST, INDEX)
        value = tl.load(x + offset, (k < kept)[:, None] & inside, 0).to(ACC)
        if GATED:
            value *= tl.load(gate + b * reduced + r, r < reduced, 0)[None, :]
        total += value
        best, index = _take_maximum(tl.where(inside, value, float("-inf")), r[None, :], best, index)
    best, index = _first_maximum(best, index)
    out = (split * batch + b) * kept + k
    # Several programs' sums are divided once they are added: integers that cancel then have a mean of exactly 0.
    tl.store(mean + out, tl.sum(total, 1) / tl.where(splits == 1, reduced, 1), k < kept)
    tl.store(top + out, best, k < kept)
    tl.store(position + out, index, k < kept)


@triton.jit(do_not_specialize=SIZES)
def _combine_kernel(
    sums,
    tops,
    positions,
    mean,
    top,
    position,
    size,
    reduced,
    splits,
    BLOCK: tl.constexpr,
    BLOCK_SPLITS: tl.constexpr,
):
    n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    lanes = tl.arange(0, BLOCK_SPLITS)
    total = tl.zeros([BLOCK, BLOCK_SPLITS], mean.dtype.element_ty)
    best = tl.full([BLOCK, BLOCK_SPLITS], float("-inf"), mean.dtype.element_ty)
    inside = (n < size)[:, None] & (lanes < splits)[None, :]
    index = tl.load(positions + lanes[None, :] * size.to(tl.int64) + n[:, None], inside, 0x7FFFFFFF)
    for start in range(0, splits, BLOCK_SPLITS):
        split = start + lanes
        inside = (n < size)[:, None] & (split < splits)[None, :]
        offset = split[None, :] * size.to(tl.int64) + n[:, None]
        total += tl.load(sums + offset, inside, 0)
        value = tl.load(tops + offset, inside, float("-inf"))
        best, index = _take_maximum(value, tl.load(positions + offset, inside, 0), best, index)
    best, index = _first_maximum(best, index)
    tl.store(mean + n, tl.sum(total, 1) / reduced, n < size)
    tl.store(top + n, best, n < size)
    tl.store(position + n, index, n < size)


@triton.jit
def _take_maximum(value, index, best, position):
    """The running maximum and its position after one more value, lane by lane; the first one stays, and NaN stays."""
    stays = (value <= best) | (best != best)
    return tl.where(stays, best, value), tl.where(stays, position, index)


@triton.jit
def _first_maximum(best, position):
    """Along the second axis the maximum, NaN if there is one, and its lowest position: as torch.max gives them."""
    nan = best != best
    has_nan = tl.max(nan.to(tl.int32), 1) > 0
    top = tl.max(tl.where(nan, float("-inf"), best), 1)
    hit = tl.where(has_nan[:, None], nan, best == top[:, None])
    return tl.where(has_nan, float("nan"), top), tl.min(tl.where(hit, position, 0x7FFFFFFF), 1)
