"""The backward's sums: over the pixels for the channels' gate, over the channels for the pixels'."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ...precision import accumulation_dtype
from ...products import rounded_product
from .elements import Norm, aligned, offsets, pixel_gate, place
from .tiling import SIZES, WARPS, channels_last, cut_along, layout, share, share_of_maps, sizes


def contract(grad: Tensor, x: Tensor, gate: Tensor, logits: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    """grad x times the spatial gate over the pixels, (S, B, C), and times the channels' over them, (T, B, P).

    Both are partial sums, to be added up along the first axis; in the first one there is room for `contract_maps`'s.
    """
    batch, channels, pixels = sizes(x)
    last = channels_last(x)
    rows, columns = (pixels, channels) if last else (channels, pixels)
    tile = cut_along(x, rows, columns, along=64)
    programs, splits, steps = share(x, rows, columns, tile)
    blocks, more = triton.cdiv(rows, tile[0]), share_of_maps(x)[2]
    dtype = accumulation_dtype(x.dtype)
    channel_sums = x.new_empty((more + (blocks if last else splits), batch, channels), dtype=dtype)
    pixel_sums = x.new_empty((splits if last else blocks, batch, pixels), dtype=dtype)
    sums = (pixel_sums, channel_sums) if last else (channel_sums, pixel_sums)
    _contract_kernel[(programs,)](
        *(grad, x, gate, logits, *norm[:3], *sums, batch, channels, pixels, splits, steps),
        **norm.constants(),
        **layout(x),
        BLOCK_ROWS=tile[0],
        BLOCK_COLUMNS=tile[1],
        num_warps=WARPS,
    )
    return channel_sums, pixel_sums


@triton.jit(do_not_specialize=SIZES)
def _contract_kernel(
    grad,
    x,
    gate,
    logits,
    moments,
    norm_weight,
    norm_bias,
    row_sums,
    column_sums,
    batch,
    channels,
    pixels,
    splits,
    steps,
    NORM: tl.constexpr,
    EPS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    ACC: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    channels, pixels = aligned(channels, pixels, CHANNELS_LAST, ALIGNMENT)
    rows, columns = channels, pixels
    if CHANNELS_LAST:
        rows, columns = pixels, channels
    b, block, split = place(tl.cdiv(rows, BLOCK_ROWS), splits)
    row = block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    grad += b * channels * pixels
    x += b * channels * pixels
    gate += b * channels
    logits += b * pixels
    of_row = _gate_at(row, rows, CHANNELS_LAST, gate, logits, moments, norm_weight, norm_bias, NORM, EPS)
    along_rows = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], ACC)
    for step in range(steps):
        column = (split * steps + step) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
        of_column = _gate_at(
            column, columns, not CHANNELS_LAST, gate, logits, moments, norm_weight, norm_bias, NORM, EPS
        )
        offset = offsets(row, column, rows, columns, False, INDEX)
        inside = (row < rows)[:, None] & (column < columns)[None, :]
        product = tl.load(grad + offset, inside, 0).to(ACC) * tl.load(x + offset, inside, 0).to(ACC)
        along_rows += product * of_column[None, :]
        out = (block * batch + b) * columns + column
        tl.store(column_sums + out, tl.sum(rounded_product(product, of_row[:, None]), 0), column < columns)
    tl.store(row_sums + (split * batch + b) * rows + row, tl.sum(along_rows, 1), row < rows)


@triton.jit
def _gate_at(
    n, size, IS_PIXEL: tl.constexpr, gate, logits, moments, weight, bias, NORM: tl.constexpr, EPS: tl.constexpr
):
    """The gate of pixels or that of channels."""
    if IS_PIXEL:
        return pixel_gate(logits, n, size, moments, weight, bias, NORM, EPS)
    else:
        return tl.load(gate + n, n < size, 0)


def contract_maps(x: Tensor, dmaps: Tensor, top_channel: Tensor, channel_sums: Tensor) -> None:
    """x times the gradients of the maps (2, B, P) over the pixels, into the last rows of `channel_sums`."""
    tile, programs, splits, steps = share_of_maps(x)
    _contract_maps_kernel[(programs,)](
        *(x, dmaps, top_channel, channel_sums[-splits:], *sizes(x), splits, steps),
        **layout(x),
        BLOCK_CHANNELS=tile[0],
        BLOCK_PIXELS=tile[1],
        num_warps=WARPS,
    )


@triton.jit(do_not_specialize=SIZES)
def _contract_maps_kernel(
    x,
    dmaps,
    top_channel,
    channel_sums,
    batch,
    channels,
    pixels,
    splits,
    steps,
    CHANNELS_LAST: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    ACC: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
):
    channels, pixels = aligned(channels, pixels, CHANNELS_LAST, ALIGNMENT)
    b, block, split = place(tl.cdiv(channels, BLOCK_CHANNELS), splits)
    c = block * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    x += b * channels * pixels
    total = tl.zeros([BLOCK_CHANNELS, BLOCK_PIXELS], ACC)
    for step in range(steps):
        p = (split * steps + step) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
        dmean = tl.load(dmaps + b * pixels + p, p < pixels, 0)
        dtop = dmean + tl.load(dmaps + (batch + b) * pixels + p, p < pixels, 0)
        is_top = tl.load(top_channel + b * pixels + p, p < pixels, -1)[None, :] == c[:, None]
        offset = offsets(c, p, channels, pixels, CHANNELS_LAST, INDEX)
        value = tl.load(x + offset, (c < channels)[:, None] & (p < pixels)[None, :], 0).to(ACC)
        total += value * tl.where(is_top, dtop[None, :], dmean[None, :])
    tl.store(channel_sums + (split * batch + b) * channels + c, tl.sum(total, 1), c < channels)
