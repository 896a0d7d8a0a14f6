"""What the kernels compute alike: where a program and its lanes stand, sums over columns and over slices, window sums.

A tile is (columns x groups, channels of a group): lanes and warps lie on the channels first, a thread keeps its columns
in registers, so that sums over rows, columns and pixels need no shuffle. Groups of an odd number of channels start
anywhere, and a vector must not. So a tile begins at the last multiple of a vector before its group and masks what it
sees of the neighbours.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .tiling import MARGIN

# Arguments that change with the image: no code of their own where they are 1 or a multiple of 16.
SIZES = [
    "x_sample",
    "x_row",
    "x_column",
    "grad_sample",
    "grad_row",
    "grad_column",
    "out_sample",
    "out_row",
    "out_column",
    "height",
    "width",
    "rows",
]
SIZES += ["group_blocks", "column_blocks", "row_chunks", "instances"]


@triton.jit
def place(
    height, rows, group_blocks, column_blocks, row_chunks, BLOCK_GROUPS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr
):
    """This program's sample, first group, block of columns, chunk of rows, and its rows' first and end."""
    program = tl.program_id(0)
    group_block = program % group_blocks
    program = program // group_blocks
    column_block = program % column_blocks
    program = program // column_blocks
    chunk = program % row_chunks
    start = chunk.to(tl.int64) * rows
    return (
        program // row_chunks,
        group_block * BLOCK_GROUPS,
        column_block,
        chunk,
        start,
        tl.minimum(start + rows, height),
    )


@triton.jit
def lanes(group, groups, K: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, CHANNEL_VECTOR: tl.constexpr):
    """Per row of a tile, that is per group, and lane: the channel in the map, the channel in the group, whether it is
    the group's, and whether its vector holds one of the group's."""
    first = group * K
    position = (first // CHANNEL_VECTOR * CHANNEL_VECTOR)[:, None] + tl.arange(0, BLOCK_CHANNELS)[None, :]
    channel = position - first[:, None]
    there = (group < groups)[:, None]
    own = (channel >= 0) & (channel < K) & there
    touched = (position < ((first + K + CHANNEL_VECTOR - 1) // CHANNEL_VECTOR * CHANNEL_VECTOR)[:, None]) & there
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
def gather(tile, BLOCK_COLUMNS: tl.constexpr):
    """(columns x groups, lanes) -> (groups, lanes): the sum over the columns."""
    BLOCK_GROUPS: tl.constexpr = tile.shape[0] // BLOCK_COLUMNS
    BLOCK_CHANNELS: tl.constexpr = tile.shape[1]
    return tl.sum(tl.reshape(tile, (BLOCK_COLUMNS, BLOCK_GROUPS, BLOCK_CHANNELS)), axis=0)


@triton.jit
def store_own(pointer, value, position, group, own, seen, K: tl.constexpr, CHANNEL_VECTOR: tl.constexpr):
    """Store a group's channels: whole vectors as such, the rest of the group's first and last vector one by one."""
    if K % CHANNEL_VECTOR == 0:
        tl.store(pointer, value, mask=own & seen)
    else:
        first = group * K
        whole = position >= ((first + CHANNEL_VECTOR - 1) // CHANNEL_VECTOR * CHANNEL_VECTOR)[:, None]
        whole = whole & (position < ((first + K) // CHANNEL_VECTOR * CHANNEL_VECTOR)[:, None]) & seen
        tl.store(pointer, value, mask=whole)
        tl.store(pointer, value, mask=own & seen & (whole == 0))


@triton.jit
def added(parts, offset, mask, count, most, stride, SLICES: tl.constexpr):
    """The sum of `count` slices of partial sums, `stride` apart; `offset` and `mask` are (rows, lanes).

    `count` may differ from row to row, as (rows, 1)."""
    total = tl.zeros(offset.shape, parts.dtype.element_ty)
    for first in range(0, most, SLICES):
        s = first + tl.arange(0, SLICES)[:, None, None]
        tile = tl.load(parts + s * stride + offset[None], mask=(s < count) & mask[None], other=0)
        total += tl.sum(tile, axis=0)
    return total


@triton.jit
def store_windows(
    x, x_row, x_column, top, bottom, left, right, total, windows, c, mask, height, width, K: tl.constexpr
):
    """windows (K, 9) of one instance from the means of its edges, its total mean, and its corners in x."""
    last, end = (height - 1).to(tl.int64) * x_row, (width - 1).to(tl.int64) * x_column
    pixels = height.to(total.dtype) * width
    for tap in tl.static_range(9):
        value = total
        if tap < 3:
            value -= bottom / height
        if tap > 5:
            value -= top / height
        if tap % 3 == 0:
            value -= right / width
        if tap % 3 == 2:
            value -= left / width
        if tap == 0:
            value += tl.load(x + last + end + c, mask=mask, other=0).to(total.dtype) / pixels
        if tap == 2:
            value += tl.load(x + last + c, mask=mask, other=0).to(total.dtype) / pixels
        if tap == 6:
            value += tl.load(x + end + c, mask=mask, other=0).to(total.dtype) / pixels
        if tap == 8:
            value += tl.load(x + c, mask=mask, other=0).to(total.dtype) / pixels
        tl.store(windows + c * 9 + tap, value, mask=mask)


@triton.jit
def padded_size(height, width):
    """Numbers of an instance in a zero-padded map of one channel."""
    return (height + 2).to(tl.int64) * (width + 2) + MARGIN
