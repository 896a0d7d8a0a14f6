"""Forward passes that only sum: means, window sums, moments of the gated map. Programs and memory: as in `forward`."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ...launching import accumulation
from ...products import rounded_product
from .tiles import SIZES, added, gather, lanes, place, spread, store_windows
from .tiling import fold_tile, strides, tiling


def pool(x: Tensor, means: Tensor, windows: Tensor) -> None:
    """means, sides: row and column means of x. windows (N, K, 9): what tap k sees of x, summed, divided by P.

    Tap (ky, kx) sees all rows but the last for ky = 0, all but the first for ky = 2; columns alike.
    """
    instances, k, sides = means.shape
    batch, channels, height, width = x.shape
    groups = channels // k
    t = tiling(x, k, cost=3)
    slices = max(t.column_blocks, t.row_chunks)
    parts = means if slices == 1 else means.new_empty((slices, instances, sides, k))
    _pool[(batch * t.programs,)](
        *(x, *strides(x, t.CHANNEL_VECTOR), parts, height, width, *t.blocks, instances, groups),
        *(k, t.BLOCK_CHANNELS, t.BLOCK_GROUPS, t.BLOCK_COLUMNS, t.CHANNEL_VECTOR, accumulation(means)),
        num_warps=t.warps,
    )
    tile = fold_tile(k, sides, slices)
    _fold_means[(instances * triton.cdiv(k, tile["BLOCK_CHANNELS"]),)](
        *(x, *strides(x), parts, means, windows, height, width, t.column_blocks, t.row_chunks, instances, groups, k),
        **tile,
        FOLD=slices > 1,
        ACC=accumulation(means),
    )


@triton.jit(do_not_specialize=SIZES)
def _pool(
    x,
    x_sample,
    x_row,
    x_column,
    parts,
    height,
    width,
    rows,
    group_blocks,
    column_blocks,
    row_chunks,
    instances,
    groups: tl.constexpr,
    K: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_GROUPS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    CHANNEL_VECTOR: tl.constexpr,
    ACC: tl.constexpr,
):
    """parts (S, N, L, K): what each block of columns adds to the row means and each chunk of rows to the column's."""
    sample, first_group, block, chunk, start, end = place(
        height, rows, group_blocks, column_blocks, row_chunks, BLOCK_GROUPS, BLOCK_COLUMNS
    )
    row = tl.arange(0, BLOCK_COLUMNS * BLOCK_GROUPS)
    group = first_group + row % BLOCK_GROUPS
    column = block * BLOCK_COLUMNS + row // BLOCK_GROUPS
    position, channel, own, touched = lanes(group, groups, K, BLOCK_CHANNELS, CHANNEL_VECTOR)
    seen = (column < width)[:, None]
    x += sample.to(tl.int64) * x_sample * CHANNEL_VECTOR
    offset = (tl.minimum(column, width - 1).to(tl.int64) * x_column * CHANNEL_VECTOR)[:, None] + position

    each = tl.arange(0, BLOCK_GROUPS)
    _, channel_of_group, own_of_group, _ = lanes(first_group + each, groups, K, BLOCK_CHANNELS, CHANNEL_VECTOR)
    sides = height + width
    instance = sample.to(tl.int64) * groups + first_group
    side_of_group = (each * sides * K)[:, None] + channel_of_group
    row_parts = parts + (block.to(tl.int64) * instances + instance) * sides * K

    columns = tl.zeros((BLOCK_COLUMNS * BLOCK_GROUPS, BLOCK_CHANNELS), ACC)
    for h in range(start, end):
        tile = tl.load(x + h * x_row * CHANNEL_VECTOR + offset, mask=touched & seen, other=0).to(ACC)
        columns += tile
        tl.store(row_parts + h * K + side_of_group, gather(tile, BLOCK_COLUMNS) / width, mask=own_of_group)
    side = ((row % BLOCK_GROUPS).to(tl.int64) * sides + height + column)[:, None] * K + channel
    column_parts = parts + (chunk.to(tl.int64) * instances + instance) * sides * K
    tl.store(column_parts + side, columns / height, mask=own & seen)


@triton.jit(do_not_specialize=SIZES)
def _fold_means(
    x,
    x_sample,
    x_row,
    x_column,
    parts,
    means,
    windows,
    height,
    width,
    column_blocks,
    row_chunks,
    instances,
    groups: tl.constexpr,
    K: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_SIDES: tl.constexpr,
    SLICES: tl.constexpr,
    FOLD: tl.constexpr,
    ACC: tl.constexpr,
):
    """Means from their parts (if FOLD; else they are there) and the window sums, for some channels of one instance."""
    blocks: tl.constexpr = (K + BLOCK_CHANNELS - 1) // BLOCK_CHANNELS
    instance = (tl.program_id(0) // blocks).to(tl.int64)
    c = (tl.program_id(0) % blocks * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS))[None, :]
    mask = c < K
    sides = height + width
    stride = instances.to(tl.int64) * sides * K
    parts += instance * sides * K
    means += instance * sides * K

    most = tl.maximum(column_blocks, row_chunks)
    total = tl.zeros((BLOCK_SIDES, BLOCK_CHANNELS), ACC)
    for first in range(0, sides, BLOCK_SIDES):
        side = (first + tl.arange(0, BLOCK_SIDES)).to(tl.int64)[:, None]
        in_rows, inside = side < height, (side < sides) & mask
        count = tl.where(in_rows, column_blocks, row_chunks)
        value = added(parts, side * K + c, inside, count, most, stride, SLICES)
        total += tl.where(in_rows, value, 0)
        if FOLD:
            tl.store(means + side * K + c, value, mask=inside)
    mean = tl.sum(total, axis=0)[None, :] / height

    column = parts + height.to(tl.int64) * K
    top = added(parts, c, mask, column_blocks, column_blocks, stride, SLICES)
    bottom = added(parts, (height - 1).to(tl.int64) * K + c, mask, column_blocks, column_blocks, stride, SLICES)
    left = added(column, c, mask, row_chunks, row_chunks, stride, SLICES)
    right = added(column, (width - 1).to(tl.int64) * K + c, mask, row_chunks, row_chunks, stride, SLICES)
    x += instance // groups * x_sample + instance % groups * K
    store_windows(
        x, x_row, x_column, top, bottom, left, right, mean, windows + instance * K * 9, c, mask, height, width, K
    )


def moments(x: Tensor, gates: Tensor, eps: float, mean: Tensor, rstd: Tensor) -> None:
    """mean, rstd (N, K) of t = x a d over the pixels, rstd = 1 / sqrt(variance + eps); gates are sides."""
    instances, k, _ = gates.shape
    batch, channels, height, width = x.shape
    t = tiling(x, k)
    parts = mean.new_empty((t.column_blocks * t.row_chunks, instances, 2, k))
    _moments[(batch * t.programs,)](
        *(x, *strides(x, t.CHANNEL_VECTOR), gates, parts, height, width, *t.blocks, instances, channels // k),
        *(k, t.BLOCK_CHANNELS, t.BLOCK_GROUPS, t.BLOCK_COLUMNS, t.CHANNEL_VECTOR, accumulation(mean)),
        num_warps=t.warps,
    )
    lanes = min(triton.next_power_of_2(k), 128)
    slices = min(8 if len(parts) <= 8 else 64, 2048 // lanes)  # two codes; a power of two for each size made eight
    _fold_moments[(instances * triton.cdiv(k, lanes),)](
        *(parts, mean, rstd, height, width, t.rows, t.column_blocks, t.row_chunks, instances),
        *(eps, k, lanes, t.BLOCK_COLUMNS, slices, accumulation(mean)),
        num_warps=min(max(1, lanes * slices // 512), 4),
    )


@triton.jit(do_not_specialize=SIZES)
def _moments(
    x,
    x_sample,
    x_row,
    x_column,
    gates,
    parts,
    height,
    width,
    rows,
    group_blocks,
    column_blocks,
    row_chunks,
    instances,
    groups: tl.constexpr,
    K: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_GROUPS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    CHANNEL_VECTOR: tl.constexpr,
    ACC: tl.constexpr,
):
    """parts (S, N, 2, K): a program's mean of t = x a d, and its sum of squares about that mean.

    Both come from sums about a pivot, the mean of the first row: squares about it lose at most a factor `rows`.
    """
    sample, first_group, block, chunk, start, end = place(
        height, rows, group_blocks, column_blocks, row_chunks, BLOCK_GROUPS, BLOCK_COLUMNS
    )
    row = tl.arange(0, BLOCK_COLUMNS * BLOCK_GROUPS)
    group = first_group + row % BLOCK_GROUPS
    column = block * BLOCK_COLUMNS + row // BLOCK_GROUPS
    position, channel, own, touched = lanes(group, groups, K, BLOCK_CHANNELS, CHANNEL_VECTOR)
    seen = (column < width)[:, None]
    x += sample.to(tl.int64) * x_sample * CHANNEL_VECTOR
    offset = (tl.minimum(column, width - 1).to(tl.int64) * x_column * CHANNEL_VECTOR)[:, None] + position

    each = tl.arange(0, BLOCK_GROUPS)
    _, channel_of_group, own_of_group, _ = lanes(first_group + each, groups, K, BLOCK_CHANNELS, CHANNEL_VECTOR)
    sides = height + width
    instance = sample.to(tl.int64) * groups + first_group
    gates += instance * sides * K
    side_of_group = (tl.minimum(each, groups - 1 - first_group) * sides * K)[:, None] + channel_of_group
    side = ((row % BLOCK_GROUPS).to(tl.int64) * sides + height + column)[:, None] * K + channel
    d = tl.load(gates + side, mask=own & seen, other=0)

    count = tl.minimum(BLOCK_COLUMNS, width - block * BLOCK_COLUMNS)
    a = tl.load(gates + start * K + side_of_group, mask=own_of_group)
    tile = tl.load(x + start * x_row * CHANNEL_VECTOR + offset, mask=touched).to(ACC)
    pivot = gather(tile * d, BLOCK_COLUMNS) * a / count

    sums = tl.zeros((BLOCK_COLUMNS * BLOCK_GROUPS, BLOCK_CHANNELS), ACC)
    squares = tl.zeros((BLOCK_COLUMNS * BLOCK_GROUPS, BLOCK_CHANNELS), ACC)
    for h in range(start, end):
        a = tl.load(gates + h * K + side_of_group, mask=own_of_group)
        tile = tl.load(x + h * x_row * CHANNEL_VECTOR + offset, mask=touched).to(ACC)
        distance = tile * d * spread(a, BLOCK_COLUMNS) - spread(pivot, BLOCK_COLUMNS)
        sums += distance
        squares += distance * distance
    count *= end - start
    total = gather(tl.where(seen, sums, 0), BLOCK_COLUMNS)
    square = gather(tl.where(seen, squares, 0), BLOCK_COLUMNS)
    part = ((chunk * column_blocks + block).to(tl.int64) * instances + instance) * 2 * K
    part_of_group = parts + part + (each * 2 * K)[:, None] + channel_of_group
    tl.store(part_of_group, pivot + total / count, mask=own_of_group)
    tl.store(part_of_group + K, square - total * (total / count), mask=own_of_group)


@triton.jit(do_not_specialize=SIZES)
def _fold_moments(
    parts,
    mean,
    rstd,
    height,
    width,
    rows,
    column_blocks,
    row_chunks,
    instances,
    eps: tl.constexpr,
    K: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    SLICES: tl.constexpr,
    ACC: tl.constexpr,
):
    """The programs' moments together: the mean of their means, then the squares about it."""
    blocks: tl.constexpr = (K + BLOCK_CHANNELS - 1) // BLOCK_CHANNELS
    instance = (tl.program_id(0) // blocks).to(tl.int64)
    c = tl.program_id(0) % blocks * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    parts += instance * 2 * K + c[None, :]
    stride = instances.to(tl.int64) * 2 * K
    count = column_blocks * row_chunks
    pixels = height.to(ACC) * width
    centre = tl.zeros((BLOCK_CHANNELS,), ACC)
    for first in range(0, count, SLICES):
        s = first + tl.arange(0, SLICES)[:, None]
        wide, high = (
            tl.minimum(BLOCK_COLUMNS, width - s % column_blocks * BLOCK_COLUMNS),
            tl.minimum(rows, height - s // column_blocks * rows),
        )
        part = tl.load(parts + s * stride, mask=(s < count) & (c < K)[None, :], other=0)
        centre += tl.sum(rounded_product(part, (wide * high).to(ACC)), axis=0)
    centre /= pixels
    square = tl.zeros((BLOCK_CHANNELS,), ACC)
    for first in range(0, count, SLICES):
        s = first + tl.arange(0, SLICES)[:, None]
        wide, high = (
            tl.minimum(BLOCK_COLUMNS, width - s % column_blocks * BLOCK_COLUMNS),
            tl.minimum(rows, height - s // column_blocks * rows),
        )
        inside = (s < count) & (c < K)[None, :]
        step = tl.load(parts + s * stride, mask=inside, other=0) - centre[None, :]
        own = tl.load(parts + s * stride + K, mask=inside, other=0)
        square += tl.sum(tl.where(inside, own + step * step * (wide * high), 0), axis=0)
    tl.store(mean + instance * K + c, centre, mask=c < K)
    tl.store(rstd + instance * K + c, 1 / tl.sqrt(square / pixels + eps), mask=c < K)
