"""What the kernels compute alike: where a program and its lanes stand, sums over columns, window sums.

A tile is (columns, channels) or (columns x groups, channels of a group): lanes and warps are on the channels first, a
thread keeps its columns in registers, so that sums over rows, columns and pixels need no shuffle. Groups of an odd
number of channels start anywhere, and a vector must not. So a tile begins at the last multiple of a vector before its
group and masks what it sees of the neighbours.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ...products import rounded_product
from .tiling import MARGIN

# Arguments that change with the image: no code of their own where they are 1 or a multiple of 16.
SIZES = [f"{name}_{axis}" for name in ("x", "grad", "out") for axis in ("sample", "row", "column")]
SIZES += ["height", "width", "rows", "row_chunks", "column_blocks"]


@triton.jit
def place(height, width, rows, row_chunks, channel_blocks: tl.constexpr, BLOCK_COLUMNS: tl.constexpr):
    """This program's sample, block of channels, block of columns, chunk of rows, and its rows' first and end."""
    program = tl.program_id(0)
    channel_block = program % channel_blocks
    program = program // channel_blocks
    column_blocks = tl.cdiv(width, BLOCK_COLUMNS)
    column_block = program % column_blocks
    program = program // column_blocks
    chunk = program % row_chunks
    sample = (program // row_chunks).to(tl.int64)
    start = chunk * rows
    return sample, channel_block, column_block, chunk, start, tl.minimum(start + rows, height)


@triton.jit
def elements(
    values,
    sample,
    row,
    column,
    lane,
    position,
    sample_stride,
    row_stride,
    column_stride,
    C: tl.constexpr,
    VECTOR: tl.constexpr,
    DENSE: tl.constexpr,
):
    """Where a row of the map starts at a column, where a tile's elements are from there, and how far the next row is.

    All are multiples of a vector. In dense maps the code knows how far columns are apart: a thread needs one address.
    """
    row_step = (row_stride // VECTOR * VECTOR).to(tl.int64)
    column_step = C if DENSE else (column_stride // VECTOR * VECTOR).to(tl.int64)
    line = values + sample * (sample_stride // VECTOR * VECTOR) + row * row_step + column.to(tl.int64) * column_step
    return line, lane.to(tl.int64)[:, None] * column_step + position, row_step


@triton.jit
def rows_of_tile(block, BLOCK_GROUPS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr):
    """Of each row of a tile of (columns x groups, channels), the column in the block and the group in the map."""
    row = tl.arange(0, BLOCK_COLUMNS * BLOCK_GROUPS)
    return row // BLOCK_GROUPS, block * BLOCK_GROUPS + row % BLOCK_GROUPS


@triton.jit
def lanes(group, C: tl.constexpr, K: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, VECTOR: tl.constexpr):
    """Per row of a tile, that is per group, and lane: the channel in the map, the channel in the group, whether it is
    the group's, and whether its vector holds one of the group's."""
    first = group * K
    position = (first // VECTOR * VECTOR)[:, None] + tl.arange(0, BLOCK_CHANNELS)[None, :]
    channel = position - first[:, None]
    there = (group < C // K)[:, None]
    own = (channel >= 0) & (channel < K) & there
    touched = (position < ((first + K + VECTOR - 1) // VECTOR * VECTOR)[:, None]) & there
    return position, channel, own, touched


@triton.jit
def spread(value, BLOCK_COLUMNS: tl.constexpr):
    """(groups, lanes) -> (columns x groups, lanes): the same for every column."""
    BLOCK_GROUPS: tl.constexpr = value.shape[0]
    BLOCK_CHANNELS: tl.constexpr = value.shape[1]
    return tl.reshape(
        tl.broadcast_to(value[None], (BLOCK_COLUMNS, BLOCK_GROUPS, BLOCK_CHANNELS)),
        (BLOCK_COLUMNS * BLOCK_GROUPS, BLOCK_CHANNELS),
    )


@triton.jit
def tap(taps, k: tl.constexpr, own, BLOCK_COLUMNS: tl.constexpr):
    """Weights (columns x groups, lanes) of tap k of a group's channels, zero for others: they add nothing to a sum."""
    return spread(tl.load(taps + k, mask=own, other=0), BLOCK_COLUMNS)


@triton.jit
def gather(tile, BLOCK_COLUMNS: tl.constexpr):
    """(columns x groups, lanes) -> (groups, lanes): the sum over the columns."""
    BLOCK_GROUPS: tl.constexpr = tile.shape[0] // BLOCK_COLUMNS
    BLOCK_CHANNELS: tl.constexpr = tile.shape[1]
    return tl.sum(tl.reshape(tile, (BLOCK_COLUMNS, BLOCK_GROUPS, BLOCK_CHANNELS)), axis=0)


@triton.jit
def product(a, b, FEW_LANES: tl.constexpr):
    """a b, to be summed over columns; rounded where channels are too few for a warp, so that lanes share a sum."""
    return rounded_product(a, b) if FEW_LANES else a * b


@triton.jit
def store_own(pointer, value, position, group, own, seen, K: tl.constexpr, VECTOR: tl.constexpr):
    """Store a group's channels: whole vectors as such, the rest of the group's first and last vector one by one."""
    if K % VECTOR == 0:
        tl.store(pointer, value, mask=own & seen)
    else:
        first = group * K
        whole = position >= ((first + VECTOR - 1) // VECTOR * VECTOR)[:, None]
        whole = whole & (position < ((first + K) // VECTOR * VECTOR)[:, None]) & seen
        tl.store(pointer, value, mask=whole)
        tl.store(pointer, value, mask=own & seen & (whole == 0))


@triton.jit
def store_windows(
    x, x_row, x_column, means, windows, c, mask, height, width, C: tl.constexpr, SLICES: tl.constexpr, ACC: tl.constexpr
):
    """windows (C, 9) of one sample from its means (L, C) and the corners of x: what each tap sees, summed, over P."""
    columns = means + height.to(tl.int64) * C
    total = tl.zeros((SLICES, c.shape[1]), ACC)
    for first in range(0, width, SLICES):
        w = first + tl.arange(0, SLICES)[:, None]
        total += tl.load(columns + w.to(tl.int64) * C + c, mask=(w < width) & mask, other=0)
    mean = tl.sum(total, axis=0)[None, :] / width
    top = tl.load(means + c, mask=mask) / height
    bottom = tl.load(means + (height - 1).to(tl.int64) * C + c, mask=mask) / height
    left = tl.load(columns + c, mask=mask) / width
    right = tl.load(columns + (width - 1).to(tl.int64) * C + c, mask=mask) / width
    last, end = x + (height - 1).to(tl.int64) * x_row, (width - 1).to(tl.int64) * x_column
    per_pixel = 1 / (height.to(ACC) * width)
    windows += c * 9
    tl.store(windows + 4, mean, mask=mask)
    tl.store(windows + 1, mean - bottom, mask=mask)
    tl.store(windows + 7, mean - top, mask=mask)
    tl.store(windows + 3, mean - right, mask=mask)
    tl.store(windows + 5, mean - left, mask=mask)
    tl.store(windows, mean - bottom - right + tl.load(last + end + c, mask=mask).to(ACC) * per_pixel, mask=mask)
    tl.store(windows + 2, mean - bottom - left + tl.load(last + c, mask=mask).to(ACC) * per_pixel, mask=mask)
    tl.store(windows + 6, mean - top - right + tl.load(x + end + c, mask=mask).to(ACC) * per_pixel, mask=mask)
    tl.store(windows + 8, mean - top - left + tl.load(x + c, mask=mask).to(ACC) * per_pixel, mask=mask)


@triton.jit
def padded_size(height, width):
    """Numbers of an instance in a zero-padded map of one channel."""
    return (height + 2).to(tl.int64) * (width + 2) + MARGIN


@triton.jit
def in_padded(delta, sample, group, row, column, height, width, groups: tl.constexpr, BLOCK_GROUPS: tl.constexpr):
    """Where the pixels (group, row, column) are in maps padded with zeros, and how far the next row is.

    Groups beyond the last stand for it, and columns beyond the map are in the margin: all can be read.
    """
    group = group if groups % BLOCK_GROUPS == 0 else tl.minimum(group, groups - 1)
    pitch = width + 2
    first = delta + (sample * groups + group) * padded_size(height, width)
    return first + (row + 1).to(tl.int64) * pitch + 1 + column, pitch


@triton.jit
def side_block(block, height, width, column_blocks, row_chunks, BLOCK_SIDES: tl.constexpr):
    """A block of rows or, after all rows, of columns, and where their partial sums are: rows have one slice for each
    block of columns, then columns one for each chunk of rows.

    Returned: the sides among all H + W, which of them there are; the first slice, the step to the next one, how many.
    """
    row_blocks = tl.cdiv(height, BLOCK_SIDES)
    of_rows = block < row_blocks
    first = tl.where(of_rows, block, block - row_blocks) * BLOCK_SIDES
    step = tl.where(of_rows, height, width)
    at = first + tl.arange(0, BLOCK_SIDES)
    side, part = tl.where(of_rows, 0, height) + at, tl.where(of_rows, 0, column_blocks * height) + at
    slices = tl.where(of_rows, column_blocks, row_chunks)
    return side, at < step, part, step, slices


@triton.jit
def added(pointer, inside, step, slices):
    """The sum of tiles of partial sums, `step` apart, in their order."""
    total = tl.load(pointer, mask=inside, other=0)
    for _ in range(1, slices):
        pointer += step
        total += tl.load(pointer, mask=inside, other=0)
    return total
