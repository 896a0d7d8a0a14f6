"""Forward passes that only sum: means, window sums, moments of the gated map.

No channel needs another one here, so programs take channels as they come, without regard to groups. Memory is as in
`forward`.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ...products import rounded_product
from .tiles import SIZES, added, elements, place, side_block, store_windows
from .tiling import channel_tiling, fold, strides


def pool(x: Tensor, means: Tensor) -> None:
    """means, sides: row and column means of x."""
    batch, channels, height, width = x.shape
    t = channel_tiling(x)
    parts = means.new_empty((batch, t.side_parts(height, width), channels))
    _pool_kernel[(batch * t.programs,)](
        *(x, *strides(x), parts, height, width, t.rows, t.row_chunks), **t.constants, num_warps=t.warps
    )
    f = fold(t, height, width)
    _fold_means_kernel[(batch * f.programs,)](
        *(parts, means, height, width, t.column_blocks, t.row_chunks), **f.constants, num_warps=f.warps
    )


@triton.jit(do_not_specialize=SIZES)
def _pool_kernel(
    x,
    x_sample,
    x_row,
    x_column,
    parts,
    height,
    width,
    rows,
    row_chunks,
    C: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    VECTOR: tl.constexpr,
    DENSE: tl.constexpr,
    ACC: tl.constexpr,
):
    """parts (B, S, C): the row sums of each block of columns, then the column sums of each chunk of rows."""
    blocks: tl.constexpr = (C + BLOCK_CHANNELS - 1) // BLOCK_CHANNELS
    sample, block, column_block, chunk, start, end = place(height, width, rows, row_chunks, blocks, BLOCK_COLUMNS)
    c, lane = block * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS), tl.arange(0, BLOCK_COLUMNS)
    first = column_block * BLOCK_COLUMNS
    inside = (first + lane < width)[:, None] & (c < C)[None, :]
    line, offset, step = elements(
        x, sample, start, first, lane, c[None, :], x_sample, x_row, x_column, C, VECTOR, DENSE
    )
    column_blocks = tl.cdiv(width, BLOCK_COLUMNS)
    parts += sample * (column_blocks * height + row_chunks * width) * C
    of_row = parts + (column_block * height + start).to(tl.int64) * C
    columns = tl.zeros((BLOCK_COLUMNS, BLOCK_CHANNELS), ACC)
    for _ in range(start, end):
        tile = tl.load(line + offset, mask=inside, other=0).to(ACC)
        columns += tile
        tl.store(of_row + c, tl.sum(tile, axis=0), mask=c < C)
        line += step
        of_row += C
    of_column = parts + (column_blocks * height + chunk * width + first).to(tl.int64) * C
    tl.store(of_column + lane.to(tl.int64)[:, None] * C + c[None, :], columns, mask=inside)


@triton.jit(do_not_specialize=SIZES)
def _fold_means_kernel(
    parts,
    means,
    height,
    width,
    column_blocks,
    row_chunks,
    C: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_SIDES: tl.constexpr,
    ACC: tl.constexpr,
):
    """Means of some rows or columns and channels: the sum of their parts' slices over what was summed."""
    blocks: tl.constexpr = (C + BLOCK_CHANNELS - 1) // BLOCK_CHANNELS
    c = (tl.program_id(0) % blocks * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS))[None, :]
    program = tl.program_id(0) // blocks
    side_blocks = tl.cdiv(height, BLOCK_SIDES) + tl.cdiv(width, BLOCK_SIDES)
    sample = (program // side_blocks).to(tl.int64)
    side, there, first, step, slices = side_block(
        program % side_blocks, height, width, column_blocks, row_chunks, BLOCK_SIDES
    )
    inside = there[:, None] & (c < C)
    parts += sample * (column_blocks * height + row_chunks * width) * C
    total = added(parts + first.to(tl.int64)[:, None] * C + c, inside, step.to(tl.int64) * C, slices)
    summed = tl.where(side < height, width, height).to(ACC)
    means += sample * (height + width) * C
    tl.store(means + side.to(tl.int64)[:, None] * C + c, total * (1 / summed)[:, None], mask=inside)


def moments(x: Tensor, means: Tensor, gates: Tensor, eps: float, mean: Tensor, rstd: Tensor, windows: Tensor) -> None:
    """mean, rstd (N, K) of t = x a d over the pixels, rstd = 1 / sqrt(variance + eps); means and gates are sides.

    windows (N, K, 9): what tap k sees of x, summed, divided by P. Tap (ky, kx) sees all rows but the last for ky = 0,
    all but the first for ky = 2; columns alike.
    """
    batch, channels, height, width = x.shape
    t = channel_tiling(x)
    parts = mean.new_empty((batch, t.column_blocks * t.row_chunks, 2, channels))
    _moments_kernel[(batch * t.programs,)](
        *(x, *strides(x), gates, parts, height, width, t.rows, t.row_chunks), **t.constants, num_warps=t.warps
    )
    constants = {name: t.constants[name] for name in ("C", "BLOCK_CHANNELS", "BLOCK_COLUMNS", "ACC")}
    _fold_moments_kernel[(batch * t.channel_blocks,)](
        *(x, *strides(x), parts, means, mean, rstd, windows, height, width, t.rows, t.row_chunks, eps),
        **constants,
        SLICES=8,
        num_warps=2,
    )


@triton.jit(do_not_specialize=SIZES)
def _moments_kernel(
    x,
    x_sample,
    x_row,
    x_column,
    gates,
    parts,
    height,
    width,
    rows,
    row_chunks,
    C: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    VECTOR: tl.constexpr,
    DENSE: tl.constexpr,
    ACC: tl.constexpr,
):
    """parts (B, S, 2, C): a program's mean of t = x a d, and its sum of squares about that mean.

    Both come from sums about a pivot, the mean of the first row: squares about it lose at most a factor `rows`.
    """
    blocks: tl.constexpr = (C + BLOCK_CHANNELS - 1) // BLOCK_CHANNELS
    sample, block, column_block, chunk, start, end = place(height, width, rows, row_chunks, blocks, BLOCK_COLUMNS)
    c, lane = block * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS), tl.arange(0, BLOCK_COLUMNS)
    first = column_block * BLOCK_COLUMNS
    seen = (first + lane < width)[:, None]
    inside = seen & (c < C)[None, :]
    line, offset, step = elements(
        x, sample, start, first, lane, c[None, :], x_sample, x_row, x_column, C, VECTOR, DENSE
    )
    gates += sample * (height + width) * C
    d_at = gates + (height + first).to(tl.int64) * C + (lane.to(tl.int64)[:, None] * C + c[None, :])
    d = tl.load(d_at, mask=inside, other=0)
    gates += start.to(tl.int64) * C

    count = tl.minimum(BLOCK_COLUMNS, width - first)
    t = rounded_product(tl.load(line + offset, mask=inside, other=0).to(ACC), d)
    pivot = tl.sum(t, axis=0) * tl.load(gates + c, mask=c < C) / count
    sums = tl.zeros((BLOCK_COLUMNS, BLOCK_CHANNELS), ACC)
    squares = tl.zeros((BLOCK_COLUMNS, BLOCK_CHANNELS), ACC)
    for _ in range(start, end):
        a = tl.load(gates + c, mask=c < C)
        distance = tl.load(line + offset, mask=inside).to(ACC) * d * a[None, :] - pivot[None, :]
        sums += distance
        squares += distance * distance
        line += step
        gates += C
    count *= end - start
    total = tl.sum(tl.where(seen, sums, 0), axis=0)
    square = tl.sum(tl.where(seen, squares, 0), axis=0)
    parts += ((sample * row_chunks + chunk) * tl.cdiv(width, BLOCK_COLUMNS) + column_block) * 2 * C + c
    tl.store(parts, pivot + total / count, mask=c < C)
    tl.store(parts + C, square - total * (total / count), mask=c < C)


@triton.jit(do_not_specialize=SIZES)
def _fold_moments_kernel(
    x,
    x_sample,
    x_row,
    x_column,
    parts,
    means,
    mean,
    rstd,
    windows,
    height,
    width,
    rows,
    row_chunks,
    eps: tl.constexpr,
    C: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    SLICES: tl.constexpr,
    ACC: tl.constexpr,
):
    """The programs' moments together: the mean of their means, then the squares about it. And the window sums."""
    blocks: tl.constexpr = (C + BLOCK_CHANNELS - 1) // BLOCK_CHANNELS
    sample = (tl.program_id(0) // blocks).to(tl.int64)
    c = (tl.program_id(0) % blocks * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS))[None, :]
    lane = tl.arange(0, SLICES)[:, None]
    pixels = height.to(ACC) * width
    column_blocks = tl.cdiv(width, BLOCK_COLUMNS)
    parts += sample * row_chunks * column_blocks * 2 * C
    total = tl.zeros((SLICES, BLOCK_CHANNELS), ACC)
    for chunk in range(0, row_chunks):
        high = tl.minimum(rows, height - chunk * rows)
        for first in range(0, column_blocks, SLICES):
            block = first + lane
            at = parts + (chunk * column_blocks + block).to(tl.int64) * 2 * C + c
            count = high * tl.minimum(BLOCK_COLUMNS, width - block * BLOCK_COLUMNS)
            total += tl.load(at, mask=(block < column_blocks) & (c < C), other=0) * count
    centre = tl.sum(total, axis=0)[None, :] / pixels
    square = tl.zeros((SLICES, BLOCK_CHANNELS), ACC)
    for chunk in range(0, row_chunks):
        high = tl.minimum(rows, height - chunk * rows)
        for first in range(0, column_blocks, SLICES):
            block = first + lane
            at = parts + (chunk * column_blocks + block).to(tl.int64) * 2 * C + c
            inside = (block < column_blocks) & (c < C)
            count = high * tl.minimum(BLOCK_COLUMNS, width - block * BLOCK_COLUMNS)
            away = tl.load(at, mask=inside, other=0) - centre
            square += tl.where(inside, tl.load(at + C, mask=inside, other=0) + away * away * count, 0)
    variance = tl.sum(square, axis=0)[None, :] / pixels
    tl.store(mean + sample * C + c, centre, mask=c < C)
    tl.store(rstd + sample * C + c, 1 / tl.sqrt(variance + eps), mask=c < C)

    x += sample * x_sample
    means += sample * (height + width) * C
    store_windows(x, x_row, x_column, means, windows + sample * C * 9, c, c < C, height, width, C, SLICES, ACC)
