"""EMAM's passes over channels_last maps as Triton kernels, and their launchers: those of `kernels`, lanes on channels.

A program takes a few groups of one sample, a block of columns and a chunk of rows, and walks down the rows. Its tile is
(columns x groups, channels of a group): lanes and warps lie on the channels first, a thread keeps its columns in
registers, so that sums over rows, columns and pixels need no shuffle. What crosses the border of a program goes to a
buffer of partial sums, one slice a program, and a second, small kernel adds the slices up in their order.

Groups of an odd number of channels start anywhere, and a vector must not. So a tile begins at the last multiple of a
vector before its group and masks what it sees of the neighbours.

Channels lie innermost in everything here. `sides` are (N, K, L) with strides (L K, 1, K).
"""

from __future__ import annotations

from math import gcd
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .chunked import Parameters

# ---------------------------------------------------------------- what the kernels share

# Arguments that change with the image: no code of their own where they are 1 or a multiple of 16.
SIZES = ["xb", "xh", "xw", "gb", "gh", "gw", "ob", "oh", "ow", "height", "width", "rows"]
SIZES += ["group_blocks", "column_blocks", "row_chunks", "instances"]


@triton.jit
def _place(height, rows, group_blocks, column_blocks, row_chunks, GB: tl.constexpr, WB: tl.constexpr):
    """This program's sample, first group, block of columns, chunk of rows, and its rows' first and end."""
    program = tl.program_id(0)
    group_block = program % group_blocks
    program = program // group_blocks
    column_block = program % column_blocks
    program = program // column_blocks
    chunk = program % row_chunks
    start = chunk.to(tl.int64) * rows
    return program // row_chunks, group_block * GB, column_block, chunk, start, tl.minimum(start + rows, height)


@triton.jit
def _lanes(group, groups, K: tl.constexpr, KB: tl.constexpr, VEC: tl.constexpr):
    """Per row of a tile, that is per group, and lane: the channel in the map, the channel in the group, whether it is
    the group's, and whether its vector holds one of the group's."""
    first = group * K
    position = (first // VEC * VEC)[:, None] + tl.arange(0, KB)[None, :]
    channel = position - first[:, None]
    there = (group < groups)[:, None]
    own = (channel >= 0) & (channel < K) & there
    touched = (position < ((first + K + VEC - 1) // VEC * VEC)[:, None]) & there
    return position, channel, own, touched


@triton.jit
def _spread(value, WB: tl.constexpr):
    """(groups, lanes) -> (columns x groups, lanes): the same for every column."""
    GB: tl.constexpr = value.shape[0]
    KB: tl.constexpr = value.shape[1]
    return tl.reshape(tl.broadcast_to(value[None], (WB, GB, KB)), (WB * GB, KB))


@triton.jit
def _gather(tile, WB: tl.constexpr):
    """(columns x groups, lanes) -> (groups, lanes): the sum over the columns."""
    GB: tl.constexpr = tile.shape[0] // WB
    KB: tl.constexpr = tile.shape[1]
    return tl.sum(tl.reshape(tile, (WB, GB, KB)), axis=0)


@triton.jit
def _store_own(pointer, value, position, group, own, seen, K: tl.constexpr, VEC: tl.constexpr):
    """Store a group's channels: whole vectors as such, the rest of the group's first and last vector one by one."""
    if K % VEC == 0:
        tl.store(pointer, value, mask=own & seen)
    else:
        first = group * K
        whole = position >= ((first + VEC - 1) // VEC * VEC)[:, None]
        whole = whole & (position < ((first + K) // VEC * VEC)[:, None]) & seen
        tl.store(pointer, value, mask=whole)
        tl.store(pointer, value, mask=own & seen & (whole == 0))


@triton.jit
def _sigmoid(value):
    return 1 / (1 + tl.exp(-value))


# ---------------------------------------------------------------- row and column means


@triton.jit(do_not_specialize=SIZES)
def _pool(
    x,
    xb,
    xh,
    xw,
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
    KB: tl.constexpr,
    GB: tl.constexpr,
    WB: tl.constexpr,
    VEC: tl.constexpr,
    ACC: tl.constexpr,
):
    """parts (S, N, L, K): what each block of columns adds to the row means and each chunk of rows to the column's."""
    sample, g0, block, chunk, start, end = _place(height, rows, group_blocks, column_blocks, row_chunks, GB, WB)
    row = tl.arange(0, WB * GB)
    group = g0 + row % GB
    column = block * WB + row // GB
    position, channel, own, touched = _lanes(group, groups, K, KB, VEC)
    seen = (column < width)[:, None]
    x += sample.to(tl.int64) * xb * VEC
    offset = (column.to(tl.int64) * xw * VEC)[:, None] + position

    each = tl.arange(0, GB)
    _, channel_v, own_v, _ = _lanes(g0 + each, groups, K, KB, VEC)
    sides = height + width
    instance = sample.to(tl.int64) * groups + g0
    side_v = (each * sides * K)[:, None] + channel_v
    row_parts = parts + (block.to(tl.int64) * instances + instance) * sides * K

    columns = tl.zeros((WB * GB, KB), ACC)
    for h in range(start, end):
        tile = tl.load(x + h * xh * VEC + offset, mask=touched & seen, other=0).to(ACC)
        columns += tile
        tl.store(row_parts + h * K + side_v, _gather(tile, WB) / width, mask=own_v)
    side = ((row % GB).to(tl.int64) * sides + height + column)[:, None] * K + channel
    column_parts = parts + (chunk.to(tl.int64) * instances + instance) * sides * K
    tl.store(column_parts + side, columns / height, mask=own & seen)


@triton.jit
def _added(parts, offset, mask, count, stride, SLICES: tl.constexpr):
    """The sum of `count` slices of partial sums, `stride` apart; `offset` and `mask` are (rows, lanes)."""
    total = tl.zeros(offset.shape, parts.dtype.element_ty)
    for first in range(0, count, SLICES):
        s = first + tl.arange(0, SLICES)[:, None, None]
        tile = tl.load(parts + s * stride + offset[None], mask=(s < count) & mask[None], other=0)
        total += tl.sum(tile, axis=0)
    return total


@triton.jit
def _windows(x, xh, xw, top, bottom, left, right, total, windows, c, mask, height, width, K: tl.constexpr):
    """windows (K, 9) of one instance from the means of its edges, its total mean, and its corners in x."""
    last, end = (height - 1).to(tl.int64) * xh, (width - 1).to(tl.int64) * xw
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


@triton.jit(do_not_specialize=SIZES)
def _fold_means(
    x,
    xb,
    xh,
    xw,
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
    KB: tl.constexpr,
    LB: tl.constexpr,
    SLICES: tl.constexpr,
    FOLD: tl.constexpr,
    ACC: tl.constexpr,
):
    """Means from their parts (if FOLD; else they are there) and the window sums, for KB channels of one instance."""
    blocks: tl.constexpr = (K + KB - 1) // KB
    instance = (tl.program_id(0) // blocks).to(tl.int64)
    c = (tl.program_id(0) % blocks * KB + tl.arange(0, KB))[None, :]
    mask = c < K
    sides = height + width
    stride = instances.to(tl.int64) * sides * K
    parts += instance * sides * K
    means += instance * sides * K

    total = tl.zeros((LB, KB), ACC)
    for first in range(0, sides, LB):
        side = (first + tl.arange(0, LB)).to(tl.int64)[:, None]
        in_rows = (side < height) & mask
        rows = _added(parts, side * K + c, in_rows, column_blocks, stride, SLICES)
        total += rows
        if FOLD:
            in_columns = (side >= height) & (side < sides) & mask
            columns = _added(parts, side * K + c, in_columns, row_chunks, stride, SLICES)
            tl.store(means + side * K + c, rows + columns, mask=in_rows | in_columns)
    mean = tl.sum(total, axis=0)[None, :] / height

    column = parts + height.to(tl.int64) * K
    top = _added(parts, c, mask, column_blocks, stride, SLICES)
    bottom = _added(parts, (height - 1).to(tl.int64) * K + c, mask, column_blocks, stride, SLICES)
    left = _added(column, c, mask, row_chunks, stride, SLICES)
    right = _added(column, (width - 1).to(tl.int64) * K + c, mask, row_chunks, stride, SLICES)
    x += instance // groups * xb + instance % groups * K
    _windows(x, xh, xw, top, bottom, left, right, mean, windows + instance * K * 9, c, mask, height, width, K)


# ---------------------------------------------------------------- moments of the gated map


@triton.jit(do_not_specialize=SIZES)
def _moments(
    x,
    xb,
    xh,
    xw,
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
    KB: tl.constexpr,
    GB: tl.constexpr,
    WB: tl.constexpr,
    VEC: tl.constexpr,
    ACC: tl.constexpr,
):
    """parts (S, N, 2, K): a program's mean of t = x a d, and its sum of squares about that mean.

    Both come from sums about a pivot, the mean of the first row: squares about it lose at most a factor `rows`.
    """
    sample, g0, block, chunk, start, end = _place(height, rows, group_blocks, column_blocks, row_chunks, GB, WB)
    row = tl.arange(0, WB * GB)
    group = g0 + row % GB
    column = block * WB + row // GB
    position, channel, own, touched = _lanes(group, groups, K, KB, VEC)
    seen = (column < width)[:, None]
    x += sample.to(tl.int64) * xb * VEC
    offset = (column.to(tl.int64) * xw * VEC)[:, None] + position

    each = tl.arange(0, GB)
    _, channel_v, own_v, _ = _lanes(g0 + each, groups, K, KB, VEC)
    sides = height + width
    instance = sample.to(tl.int64) * groups + g0
    gates += instance * sides * K
    side_v = (each * sides * K)[:, None] + channel_v
    side = ((row % GB).to(tl.int64) * sides + height + column)[:, None] * K + channel
    d = tl.load(gates + side, mask=own & seen, other=0)

    count = tl.minimum(WB, width - block * WB)
    a = tl.load(gates + start * K + side_v, mask=own_v, other=0)
    tile = tl.load(x + start * xh * VEC + offset, mask=touched & seen, other=0).to(ACC)
    pivot = _gather(tile * d, WB) * a / count

    sums = tl.zeros((WB * GB, KB), ACC)
    squares = tl.zeros((WB * GB, KB), ACC)
    for h in range(start, end):
        a = tl.load(gates + h * K + side_v, mask=own_v, other=0)
        tile = tl.load(x + h * xh * VEC + offset, mask=touched & seen, other=0).to(ACC)
        distance = tile * d * _spread(a, WB) - _spread(pivot, WB)
        sums += distance
        squares += distance * distance
    count *= end - start
    total = _gather(tl.where(seen, sums, 0), WB)
    square = _gather(tl.where(seen, squares, 0), WB)
    part = ((chunk * column_blocks + block).to(tl.int64) * instances + instance) * 2 * K
    part_v = parts + part + (each * 2 * K)[:, None] + channel_v
    tl.store(part_v, pivot + total / count, mask=own_v)
    tl.store(part_v + K, square - total * (total / count), mask=own_v)


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
    KB: tl.constexpr,
    WB: tl.constexpr,
    SLICES: tl.constexpr,
    ACC: tl.constexpr,
):
    """The programs' moments together: the mean of their means, then the squares about it."""
    blocks: tl.constexpr = (K + KB - 1) // KB
    instance = (tl.program_id(0) // blocks).to(tl.int64)
    c = tl.program_id(0) % blocks * KB + tl.arange(0, KB)
    parts += instance * 2 * K + c[None, :]
    stride = instances.to(tl.int64) * 2 * K
    count = column_blocks * row_chunks
    pixels = height.to(ACC) * width
    centre = tl.zeros((KB,), ACC)
    for first in range(0, count, SLICES):
        s = first + tl.arange(0, SLICES)[:, None]
        wide, high = (
            tl.minimum(WB, width - s % column_blocks * WB),
            tl.minimum(rows, height - s // column_blocks * rows),
        )
        part = tl.load(parts + s * stride, mask=(s < count) & (c < K)[None, :], other=0)
        centre += tl.sum(part * (wide * high), axis=0)
    centre /= pixels
    square = tl.zeros((KB,), ACC)
    for first in range(0, count, SLICES):
        s = first + tl.arange(0, SLICES)[:, None]
        wide, high = (
            tl.minimum(WB, width - s % column_blocks * WB),
            tl.minimum(rows, height - s // column_blocks * rows),
        )
        inside = (s < count) & (c < K)[None, :]
        step = tl.load(parts + s * stride, mask=inside, other=0) - centre[None, :]
        own = tl.load(parts + s * stride + K, mask=inside, other=0)
        square += tl.sum(tl.where(inside, own + step * step * (wide * high), 0), axis=0)
    tl.store(mean + instance * K + c, centre, mask=c < K)
    tl.store(rstd + instance * K + c, 1 / tl.sqrt(square / pixels + eps), mask=c < K)


# ---------------------------------------------------------------- the attention map, and the output


@triton.jit(do_not_specialize=SIZES)
def _attend(
    x,
    xb,
    xh,
    xw,
    out,
    ob,
    oh,
    ow,
    gates,
    mean,
    rstd,
    q,
    p,
    taps,
    gamma,
    beta,
    b3,
    gate,
    height,
    width,
    rows,
    group_blocks,
    column_blocks,
    row_chunks,
    groups: tl.constexpr,
    K: tl.constexpr,
    KB: tl.constexpr,
    GB: tl.constexpr,
    WB: tl.constexpr,
    VEC: tl.constexpr,
    ACC: tl.constexpr,
):
    """Each row of x is read once (and its neighbours to the left and right, from the cache): it adds to the map's row
    above, its own and the one below, which wait in three accumulators, not yet summed over channels."""
    sample, g0, block, chunk, start, end = _place(height, rows, group_blocks, column_blocks, row_chunks, GB, WB)
    row = tl.arange(0, WB * GB)
    group = g0 + row % GB
    column = block * WB + row // GB
    position, channel, own, touched = _lanes(group, groups, K, KB, VEC)
    seen = (column < width)[:, None]
    x += sample.to(tl.int64) * xb * VEC
    out += sample.to(tl.int64) * ob * VEC
    offset = (column.to(tl.int64) * xw * VEC)[:, None] + position
    out_offset = (column.to(tl.int64) * ow * VEC)[:, None] + position
    to_left = touched & ((column > 0) & (column < width))[:, None]
    to_right = touched & (column + 1 < width)[:, None]

    each = tl.arange(0, GB)
    _, channel_v, own_v, _ = _lanes(g0 + each, groups, K, KB, VEC)
    sides = height + width
    instance = sample.to(tl.int64) * groups + g0
    gates += instance * sides * K
    side_v = (each * sides * K)[:, None] + channel_v
    side = ((row % GB).to(tl.int64) * sides + height + column)[:, None] * K + channel
    d = tl.load(gates + side, mask=own & seen, other=0)

    one = instance * K + (each * K)[:, None] + channel_v
    weight2 = tl.load(q + one, mask=own_v, other=0)
    kappa = weight2 * tl.load(gamma + channel_v, mask=own_v, other=0) * tl.load(rstd + one, mask=own_v, other=0)
    constant = weight2 * tl.load(beta + channel_v, mask=own_v, other=0)
    constant -= kappa * tl.load(mean + one, mask=own_v, other=0)
    constant += tl.load(p + channel_v, mask=own_v, other=0) * tl.load(b3 + channel_v, mask=own_v, other=0)
    constant = tl.sum(_spread(constant, WB), axis=1)
    taps += channel_v * 9
    w0 = _spread(tl.load(taps, mask=own_v, other=0), WB)
    w1 = _spread(tl.load(taps + 1, mask=own_v, other=0), WB)
    w2 = _spread(tl.load(taps + 2, mask=own_v, other=0), WB)
    w3 = _spread(tl.load(taps + 3, mask=own_v, other=0), WB)
    w4 = _spread(tl.load(taps + 4, mask=own_v, other=0), WB)
    w5 = _spread(tl.load(taps + 5, mask=own_v, other=0), WB)
    w6 = _spread(tl.load(taps + 6, mask=own_v, other=0), WB)
    w7 = _spread(tl.load(taps + 7, mask=own_v, other=0), WB)
    w8 = _spread(tl.load(taps + 8, mask=own_v, other=0), WB)

    gate += (instance + row % GB) * (height.to(tl.int64) * width) + column
    at_gate = (column < width) & (group < groups)
    above = tl.zeros((WB * GB, KB), ACC)
    here = tl.zeros((WB * GB, KB), ACC)
    before = tl.zeros((WB * GB, KB), ACC)
    for h in range(start - 1, end + 1):
        within = (h >= 0) & (h < height)
        line = x + h * xh * VEC + offset
        left = tl.load(line - xw * VEC, mask=to_left & within, other=0).to(ACC)
        tile = tl.load(line, mask=touched & seen & within, other=0).to(ACC)
        right = tl.load(line + xw * VEC, mask=to_right & within, other=0).to(ACC)
        a = tl.load(gates + h * K + side_v, mask=own_v & within, other=0)

        above += w6 * left
        above += w7 * tile
        above += w8 * right
        if h > start:
            if K % VEC != 0:  # a neighbour's infinity, times our zero, is not zero
                above = tl.where(own, above, 0)
            score = tl.sum(above, axis=1) + constant
            opened = _sigmoid(score)
            tl.store(gate + (h - 1) * width, opened, mask=at_gate)
            result = (before * opened[:, None]).to(out.dtype.element_ty)
            _store_own(out + (h - 1) * oh * VEC + out_offset, result, position, group, own, seen, K, VEC)
        above = here + w3 * left
        above += (w4 + _spread(kappa * a, WB) * d) * tile
        above += w5 * right
        here = w0 * left
        here += w1 * tile
        here += w2 * right
        before = tile


# ---------------------------------------------------------------- the gradient before the last sigmoid

MARGIN = tl.constexpr(8)  # a block of columns may reach this far beyond the map


@triton.jit
def _padded_size(height, width):
    """Numbers of an instance in a zero-padded map of one channel."""
    return (height + 2).to(tl.int64) * (width + 2) + MARGIN


def padded(gate: Tensor, height: int, width: int) -> Tensor:
    """Room for `delta`: (N, (H + 2) (W + 2) + MARGIN), zero; neighbours are then read without asking where one is."""
    return gate.new_zeros(gate.shape[0], (height + 2) * (width + 2) + MARGIN.value)


@triton.jit(do_not_specialize=SIZES)
def _delta(
    x,
    xb,
    xh,
    xw,
    grad,
    gb,
    gc,
    gh,
    gw,
    gate,
    out,
    height,
    width,
    rows,
    group_blocks,
    column_blocks,
    row_chunks,
    groups: tl.constexpr,
    K: tl.constexpr,
    KB: tl.constexpr,
    GB: tl.constexpr,
    WB: tl.constexpr,
    VEC: tl.constexpr,
    ACC: tl.constexpr,
):
    sample, g0, block, chunk, start, end = _place(height, rows, group_blocks, column_blocks, row_chunks, GB, WB)
    row = tl.arange(0, WB * GB)
    group = g0 + row % GB
    column = block * WB + row // GB
    position, channel, own, touched = _lanes(group, groups, K, KB, VEC)
    seen = touched & (column < width)[:, None]
    x += sample.to(tl.int64) * xb * VEC
    grad += sample.to(tl.int64) * gb * VEC
    offset = (column.to(tl.int64) * xw * VEC)[:, None] + position
    grad_offset = (column.to(tl.int64) * gw * VEC)[:, None] + position.to(tl.int64) * gc
    instance = sample.to(tl.int64) * groups + group
    gate += instance * (height.to(tl.int64) * width) + column
    pitch = width + 2
    out += instance * _padded_size(height, width) + pitch + 1 + column
    at_gate = (column < width) & (group < groups)
    for h in range(start, end):
        tile = tl.load(x + h * xh * VEC + offset, mask=seen, other=0).to(ACC)
        tile *= tl.load(grad + h * gh * VEC + grad_offset, mask=seen, other=0).to(ACC)
        if K % VEC != 0:
            tile = tl.where(own, tile, 0)
        opened = tl.load(gate + h * width, mask=at_gate, other=0)
        value = tl.sum(tile, axis=1) * (opened * (1 - opened))
        tl.store(out + h * pitch, value, mask=at_gate)


# ---------------------------------------------------------------- all sums that the gradients need


@triton.jit(do_not_specialize=SIZES)
def _contract(
    x,
    xb,
    xh,
    xw,
    gates,
    mean,
    delta,
    total,
    side_parts,
    tap_parts,
    height,
    width,
    rows,
    group_blocks,
    column_blocks,
    row_chunks,
    instances,
    groups: tl.constexpr,
    K: tl.constexpr,
    KB: tl.constexpr,
    GB: tl.constexpr,
    WB: tl.constexpr,
    VEC: tl.constexpr,
    ACC: tl.constexpr,
):
    """side_parts (S, N, L, 2, K): row and column sums of t (delta - D / P) and of t (t - mean); tap_parts (S, N, 9, K):
    E; each over one block of columns or chunk of rows. total (N): D."""
    sample, g0, block, chunk, start, end = _place(height, rows, group_blocks, column_blocks, row_chunks, GB, WB)
    row = tl.arange(0, WB * GB)
    group = g0 + row % GB
    column = block * WB + row // GB
    position, channel, own, touched = _lanes(group, groups, K, KB, VEC)
    seen = (column < width)[:, None]
    there = group < groups
    x += sample.to(tl.int64) * xb * VEC
    offset = (column.to(tl.int64) * xw * VEC)[:, None] + position

    each = tl.arange(0, GB)
    _, channel_v, own_v, _ = _lanes(g0 + each, groups, K, KB, VEC)
    sides = height + width
    instance = sample.to(tl.int64) * groups + g0
    gates += instance * sides * K
    side_v = (each * sides * K)[:, None] + channel_v
    side = ((row % GB).to(tl.int64) * sides + height + column)[:, None] * K + channel
    d = tl.load(gates + side, mask=own & seen, other=0)
    mu = tl.load(mean + instance * K + (each * K)[:, None] + channel_v, mask=own_v, other=0)

    pixels = height.to(tl.int64) * width
    level = tl.load(total + instance + row % GB, mask=there, other=0) / pixels.to(ACC)
    pitch = width + 2
    delta += (instance + row % GB) * _padded_size(height, width) + pitch + 1 + column
    two_v = (each * sides * 2 * K)[:, None] + channel_v
    row_parts = side_parts + (block.to(tl.int64) * instances + instance) * sides * 2 * K
    column_parts = side_parts + (chunk.to(tl.int64) * instances + instance) * sides * 2 * K

    slopes = tl.zeros((WB * GB, KB), ACC)
    spreads = tl.zeros((WB * GB, KB), ACC)
    e0 = tl.zeros((GB, KB), ACC)
    e1 = tl.zeros((GB, KB), ACC)
    e2 = tl.zeros((GB, KB), ACC)
    e3 = tl.zeros((GB, KB), ACC)
    e4 = tl.zeros((GB, KB), ACC)
    e5 = tl.zeros((GB, KB), ACC)
    e6 = tl.zeros((GB, KB), ACC)
    e7 = tl.zeros((GB, KB), ACC)
    e8 = tl.zeros((GB, KB), ACC)
    for h in range(start, end):
        tile = tl.load(x + h * xh * VEC + offset, mask=touched & seen, other=0).to(ACC)
        a = tl.load(gates + h * K + side_v, mask=own_v, other=0)
        near = delta + h * pitch
        centre = tl.load(near, mask=there, other=0)
        e0 += _gather(tile * tl.load(near + pitch + 1, mask=there, other=0)[:, None], WB)
        e1 += _gather(tile * tl.load(near + pitch, mask=there, other=0)[:, None], WB)
        e2 += _gather(tile * tl.load(near + pitch - 1, mask=there, other=0)[:, None], WB)
        e3 += _gather(tile * tl.load(near + 1, mask=there, other=0)[:, None], WB)
        e4 += _gather(tile * centre[:, None], WB)
        e5 += _gather(tile * tl.load(near - 1, mask=there, other=0)[:, None], WB)
        e6 += _gather(tile * tl.load(near - pitch + 1, mask=there, other=0)[:, None], WB)
        e7 += _gather(tile * tl.load(near - pitch, mask=there, other=0)[:, None], WB)
        e8 += _gather(tile * tl.load(near - pitch - 1, mask=there, other=0)[:, None], WB)
        tile = tile * d * _spread(a, WB)
        slope = tile * (centre - level)[:, None]
        spread = tile * (tile - _spread(mu, WB))
        slopes += slope
        spreads += spread
        tl.store(row_parts + h * 2 * K + two_v, _gather(slope, WB), mask=own_v)
        tl.store(row_parts + h * 2 * K + two_v + K, _gather(spread, WB), mask=own_v)
    two = ((row % GB).to(tl.int64) * sides + height + column)[:, None] * 2 * K + channel
    tl.store(column_parts + two, slopes, mask=own & seen)
    tl.store(column_parts + two + K, spreads, mask=own & seen)
    tap_parts += ((chunk * column_blocks + block).to(tl.int64) * instances + instance) * 9 * K
    tap_v = tap_parts + (each * 9 * K)[:, None] + channel_v
    tl.store(tap_v, e0, mask=own_v)
    tl.store(tap_v + K, e1, mask=own_v)
    tl.store(tap_v + 2 * K, e2, mask=own_v)
    tl.store(tap_v + 3 * K, e3, mask=own_v)
    tl.store(tap_v + 4 * K, e4, mask=own_v)
    tl.store(tap_v + 5 * K, e5, mask=own_v)
    tl.store(tap_v + 6 * K, e6, mask=own_v)
    tl.store(tap_v + 7 * K, e7, mask=own_v)
    tl.store(tap_v + 8 * K, e8, mask=own_v)


@triton.jit(do_not_specialize=SIZES)
def _fold_contract(
    x,
    xb,
    xh,
    xw,
    side_parts,
    tap_parts,
    means,
    gates,
    mean,
    rstd,
    q,
    gamma,
    beta,
    total,
    dpre,
    windows,
    coefficients,
    sums,
    height,
    width,
    column_blocks,
    row_chunks,
    instances,
    groups: tl.constexpr,
    K: tl.constexpr,
    KB: tl.constexpr,
    LB: tl.constexpr,
    SLICES: tl.constexpr,
    TAP_SLICES: tl.constexpr,
    ACC: tl.constexpr,
):
    """From the parts of `_contract` to what the launcher returns, for KB channels of one instance."""
    blocks: tl.constexpr = (K + KB - 1) // KB
    instance = (tl.program_id(0) // blocks).to(tl.int64)
    c = (tl.program_id(0) % blocks * KB + tl.arange(0, KB))[None, :]
    mask = c < K
    sides = height + width
    pixels = height.to(ACC) * width
    stride = instances.to(tl.int64) * sides * 2 * K
    side_parts += instance * sides * 2 * K
    means += instance * sides * K
    gates += instance * sides * K
    dpre += instance * sides * K

    slopes = tl.zeros((LB, KB), ACC)
    mean_rows = tl.zeros((LB, KB), ACC)
    for first in range(0, height, LB):
        side = (first + tl.arange(0, LB)).to(tl.int64)[:, None]
        inside = (side < height) & mask
        slopes += _added(side_parts, side * 2 * K + c, inside, column_blocks, stride, SLICES)
        mean_rows += tl.load(means + side * K + c, mask=inside, other=0)

    one = instance * K + c
    d = tl.load(total + instance)
    scale = tl.load(rstd + one, mask=mask, other=0)
    weight2 = tl.load(q + one, mask=mask, other=0)
    gain = tl.load(gamma + c, mask=mask, other=0)
    hh = scale * tl.sum(slopes, axis=0)[None, :]
    kappa = weight2 * gain * scale
    slope = -kappa * scale * hh / pixels
    offset = -kappa * d / pixels - slope * tl.load(mean + one, mask=mask, other=0)
    coefficients += instance * 3 * K + c
    tl.store(coefficients, kappa, mask=mask)
    tl.store(coefficients + K, offset, mask=mask)
    tl.store(coefficients + 2 * K, slope, mask=mask)

    bias = tl.zeros((LB, KB), ACC)
    for first in range(0, sides, LB):
        side = (first + tl.arange(0, LB)).to(tl.int64)[:, None]
        in_rows = (side < height) & mask
        in_columns = (side >= height) & (side < sides) & mask
        at = side * 2 * K + c
        by_delta = _added(side_parts, at, in_rows, column_blocks, stride, SLICES)
        by_delta += _added(side_parts, at, in_columns, row_chunks, stride, SLICES)
        by_t = _added(side_parts, at + K, in_rows, column_blocks, stride, SLICES)
        by_t += _added(side_parts, at + K, in_columns, row_chunks, stride, SLICES)
        opened = tl.load(gates + side * K + c, mask=in_rows | in_columns, other=0)
        value = (1 - opened) * (kappa * by_delta + slope * by_t)
        tl.store(dpre + side * K + c, value, mask=in_rows | in_columns)
        bias += value

    sums += instance * 13 * K
    tl.store(sums + c, gain * hh + tl.load(beta + c, mask=mask, other=0) * d, mask=mask)
    tl.store(sums + K + c, weight2 * hh, mask=mask)
    tl.store(sums + 2 * K + c, weight2 * d, mask=mask)
    tl.store(sums + 3 * K + c, tl.sum(bias, axis=0)[None, :], mask=mask)
    tap = tl.arange(0, 16)[:, None]
    tap_parts += instance * 9 * K
    tap_stride = instances.to(tl.int64) * 9 * K
    taken = (tap < 9) & mask
    e = _added(tap_parts, tap * K + c, taken, column_blocks * row_chunks, tap_stride, TAP_SLICES)
    tl.store(sums + 4 * K + c * 9 + tap, e, mask=taken)

    column = means + height.to(tl.int64) * K
    top = tl.load(means + c, mask=mask, other=0)
    bottom = tl.load(means + (height - 1).to(tl.int64) * K + c, mask=mask, other=0)
    left = tl.load(column + c, mask=mask, other=0)
    right = tl.load(column + (width - 1).to(tl.int64) * K + c, mask=mask, other=0)
    mean_x = tl.sum(mean_rows, axis=0)[None, :] / height
    x += instance // groups * xb + instance % groups * K
    _windows(x, xh, xw, top, bottom, left, right, mean_x, windows + instance * K * 9, c, mask, height, width, K)


# ---------------------------------------------------------------- the gradient of the input


@triton.jit
def _three(pointer, step, mask):
    total = tl.load(pointer, mask=mask, other=0) + tl.load(pointer + step, mask=mask, other=0)
    return total + tl.load(pointer + 2 * step, mask=mask, other=0)


@triton.jit
def _missed(taps, own_v, first_column, last_column, WB: tl.constexpr):
    """The three taps that don't see a border row, less those that don't see the border column either."""
    left = tl.load(taps, mask=own_v, other=0)
    right = tl.load(taps + 2, mask=own_v, other=0)
    total = _spread(left + tl.load(taps + 1, mask=own_v, other=0) + right, WB)
    return total - tl.where(last_column, _spread(left, WB), 0) - tl.where(first_column, _spread(right, WB), 0)


@triton.jit(do_not_specialize=SIZES)
def _input_gradient(
    x,
    xb,
    xh,
    xw,
    grad,
    gb,
    gc,
    gh,
    gw,
    out,
    ob,
    oh,
    ow,
    gates,
    gate,
    delta,
    coefficients,
    taps,
    dmeans,
    dwindows,
    height,
    width,
    rows,
    group_blocks,
    column_blocks,
    row_chunks,
    groups: tl.constexpr,
    K: tl.constexpr,
    KB: tl.constexpr,
    GB: tl.constexpr,
    WB: tl.constexpr,
    VEC: tl.constexpr,
    ACC: tl.constexpr,
):
    """A row of dx at a time; the neighbours' delta comes from the cache."""
    sample, g0, block, chunk, start, end = _place(height, rows, group_blocks, column_blocks, row_chunks, GB, WB)
    row = tl.arange(0, WB * GB)
    group = g0 + row % GB
    column = block * WB + row // GB
    position, channel, own, touched = _lanes(group, groups, K, KB, VEC)
    there = group < groups
    in_map = (column < width)[:, None]
    seen = touched & in_map
    x += sample.to(tl.int64) * xb * VEC
    grad += sample.to(tl.int64) * gb * VEC
    out += sample.to(tl.int64) * ob * VEC
    offset = (column.to(tl.int64) * xw * VEC)[:, None] + position
    grad_offset = (column.to(tl.int64) * gw * VEC)[:, None] + position.to(tl.int64) * gc
    out_offset = (column.to(tl.int64) * ow * VEC)[:, None] + position

    each = tl.arange(0, GB)
    _, channel_v, own_v, _ = _lanes(g0 + each, groups, K, KB, VEC)
    sides = height + width
    instance = sample.to(tl.int64) * groups + g0
    gates += instance * sides * K
    dmeans += instance * sides * K
    side_v = (each * sides * K)[:, None] + channel_v
    side = ((row % GB).to(tl.int64) * sides + height + column)[:, None] * K + channel
    d = tl.load(gates + side, mask=own & in_map, other=0)

    three = coefficients + instance * 3 * K + (each * 3 * K)[:, None] + channel_v
    kappa = tl.load(three, mask=own_v, other=0)
    shift = tl.load(three + K, mask=own_v, other=0)
    slope = tl.load(three + 2 * K, mask=own_v, other=0)

    # dx gets each tap of dwindows that sees it: all but three in a border row or column, all but five in a corner.
    nine_v = dwindows + instance * 9 * K + (each * 9 * K)[:, None] + channel_v * 9
    first_column, last_column = (column == 0)[:, None], (column == width - 1)[:, None]
    left = _three(nine_v, 3, own_v)
    right = _three(nine_v + 2, 3, own_v)
    by_column = tl.load(dmeans + side, mask=own & in_map, other=0) / height
    by_column += _spread(left + _three(nine_v + 1, 3, own_v) + right, WB)
    by_column -= tl.where(last_column, _spread(left, WB), 0) + tl.where(first_column, _spread(right, WB), 0)

    taps += channel_v * 9
    w0 = _spread(tl.load(taps, mask=own_v, other=0), WB)
    w1 = _spread(tl.load(taps + 1, mask=own_v, other=0), WB)
    w2 = _spread(tl.load(taps + 2, mask=own_v, other=0), WB)
    w3 = _spread(tl.load(taps + 3, mask=own_v, other=0), WB)
    w4 = _spread(tl.load(taps + 4, mask=own_v, other=0), WB)
    w5 = _spread(tl.load(taps + 5, mask=own_v, other=0), WB)
    w6 = _spread(tl.load(taps + 6, mask=own_v, other=0), WB)
    w7 = _spread(tl.load(taps + 7, mask=own_v, other=0), WB)
    w8 = _spread(tl.load(taps + 8, mask=own_v, other=0), WB)

    at = (instance + row % GB) * (height.to(tl.int64) * width) + column
    at_gate = (column < width) & there
    gate += at
    pitch = width + 2
    delta += (instance + row % GB) * _padded_size(height, width) + pitch + 1 + column
    for h in range(start, end):
        tile = tl.load(x + h * xh * VEC + offset, mask=seen, other=0).to(ACC)
        result = tl.load(grad + h * gh * VEC + grad_offset, mask=seen, other=0).to(ACC)
        a = tl.load(gates + h * K + side_v, mask=own_v, other=0)
        by_row = tl.load(dmeans + h * K + side_v, mask=own_v, other=0) / width
        near = delta + h * pitch
        centre = tl.load(near, mask=there, other=0)
        opened = tl.load(gate + h * width, mask=at_gate, other=0)

        result = result * opened[:, None] + by_column + _spread(by_row, WB)
        ad = d * _spread(a, WB)
        dt = _spread(slope, WB) * (ad * tile) + _spread(shift, WB)
        dt += _spread(kappa, WB) * centre[:, None]
        result += dt * ad
        result += w4 * centre[:, None]
        result += w0 * tl.load(near + pitch + 1, mask=there, other=0)[:, None]
        result += w1 * tl.load(near + pitch, mask=there, other=0)[:, None]
        result += w2 * tl.load(near + pitch - 1, mask=there, other=0)[:, None]
        result += w3 * tl.load(near + 1, mask=there, other=0)[:, None]
        result += w5 * tl.load(near - 1, mask=there, other=0)[:, None]
        result += w6 * tl.load(near - pitch + 1, mask=there, other=0)[:, None]
        result += w7 * tl.load(near - pitch, mask=there, other=0)[:, None]
        result += w8 * tl.load(near - pitch - 1, mask=there, other=0)[:, None]
        if h == 0:
            result -= _missed(nine_v + 6, own_v, first_column, last_column, WB)
        if h == height - 1:
            result -= _missed(nine_v, own_v, first_column, last_column, WB)
        pointer = out + h * oh * VEC + out_offset
        _store_own(pointer, result.to(out.dtype.element_ty), position, group, own, in_map, K, VEC)


# ---------------------------------------------------------------- launchers


class Tiling(NamedTuple):
    """How the programs share the map; a tile is WB columns x GB groups x KB channels."""

    KB: int
    GB: int
    WB: int
    VEC: int
    warps: int
    rows: int  # of a chunk
    group_blocks: int
    column_blocks: int
    row_chunks: int

    @property
    def programs(self) -> int:
        """For one sample."""
        return self.group_blocks * self.column_blocks * self.row_chunks

    @property
    def blocks(self) -> tuple[int, int, int, int]:
        return self.rows, self.group_blocks, self.column_blocks, self.row_chunks


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def _vector(at_most: int, *maps: Tensor) -> int:
    """The longest vector of channels, up to `at_most` and 16 bytes, that every pixel of the maps starts at one of."""
    vector = at_most
    for t in maps:
        strides = [stride for size, stride in zip(t.shape, t.stride()) if size > 1 and stride != 1]
        vector = min(vector, 16 // t.element_size())
        while any(stride % vector for stride in strides):
            vector //= 2
    return vector


def _tiling(x: Tensor, k: int, *maps: Tensor, numbers: int = 32, cost: int = 1) -> Tiling:
    """The tiling for (B, C, H, W) maps of k channels a group.

    A thread holds `numbers` numbers, or half of them: four channels (fewer if a block of groups has less than 128) of
    some columns; up to 128 channels make a warp, more make more. The block of columns is the one that wastes least,
    each block costing as much as `cost` columns; the rows are cut so that some two thousand warps have work, but into
    no fewer than eight and no more than 32.
    """
    batch, channels, height, width = x.shape
    groups = channels // k
    lanes = triton.next_power_of_2(k)
    group_block = min(triton.next_power_of_2(groups), max(1, 128 // lanes))
    vector = _vector(max(1, min(4, lanes, lanes * group_block // 32)), x, *maps)
    if triton.next_power_of_2(k + vector - gcd(k, vector)) > lanes:
        vector = 1
    warps = min(max(1, lanes * group_block // 128), 16)
    columns = max(1, numbers * 32 * warps // (lanes * group_block) // (2 if x.dtype == torch.float64 else 1))
    columns = min(columns, MARGIN.value, triton.next_power_of_2(width))
    column_block = min(columns, max(1, columns // 2), key=lambda wide: _ceil(width, wide) * (wide + cost))
    group_blocks, column_blocks = _ceil(groups, group_block), _ceil(width, column_block)
    wanted = _ceil(2048, batch * group_blocks * column_blocks * warps)
    rows = _ceil(height, max(_ceil(height, 32), min(wanted, _ceil(height, 8))))
    return Tiling(
        KB=lanes,
        GB=group_block,
        WB=column_block,
        VEC=vector,
        warps=warps,
        rows=rows,
        group_blocks=group_blocks,
        column_blocks=column_blocks,
        row_chunks=_ceil(height, rows),
    )


def _strides(t: Tensor, vector: int = 1) -> tuple[int, int, int]:
    """Of samples, rows and columns, in vectors."""
    b, _, h, w = (stride // vector if size > 1 else 0 for size, stride in zip(t.shape, t.stride()))
    return b, h, w


def _grad_strides(t: Tensor, vector: int) -> tuple[int, int, int, int]:
    """As `_strides`, and of channels, in numbers."""
    b, h, w = _strides(t, vector)
    return b, t.stride(1), h, w


def _acc(t: Tensor) -> Any:
    return tl.float64 if t.dtype == torch.float64 else tl.float32


def _fold_tile(k: int, sides: int, slices: int) -> dict[str, int]:
    """Channels, rows and slices of the tile of a kernel that adds up partial sums, and its warps."""
    lanes = min(triton.next_power_of_2(k), 128)
    deep = min(triton.next_power_of_2(slices), 4)
    high = min(triton.next_power_of_2(sides), max(1, 4096 // (lanes * deep)))
    return {"KB": lanes, "LB": high, "SLICES": deep, "num_warps": min(max(1, lanes * high * deep // 512), 8)}


def pool(x: Tensor, means: Tensor, windows: Tensor) -> None:
    """As `kernels.pool`; means are sides."""
    instances, k, sides = means.shape
    batch, channels, height, width = x.shape
    groups = channels // k
    t = _tiling(x, k, cost=3)
    slices = max(t.column_blocks, t.row_chunks)
    parts = means if slices == 1 else means.new_empty((slices, instances, sides, k))
    _pool[(batch * t.programs,)](
        *(x, *_strides(x, t.VEC), parts, height, width, *t.blocks, instances, groups),
        *(k, t.KB, t.GB, t.WB, t.VEC, _acc(means)),
        num_warps=t.warps,
    )
    tile = _fold_tile(k, sides, slices)
    _fold_means[(instances * _ceil(k, tile["KB"]),)](
        *(x, *_strides(x), parts, means, windows, height, width, t.column_blocks, t.row_chunks, instances, groups, k),
        **tile,
        FOLD=slices > 1,
        ACC=_acc(means),
    )


def moments(x: Tensor, gates: Tensor, eps: float, mean: Tensor, rstd: Tensor) -> None:
    """As `kernels.moments`; gates are sides."""
    instances, k, _ = gates.shape
    batch, channels, height, width = x.shape
    t = _tiling(x, k)
    parts = mean.new_empty((t.column_blocks * t.row_chunks, instances, 2, k))
    _moments[(batch * t.programs,)](
        *(x, *_strides(x, t.VEC), gates, parts, height, width, *t.blocks, instances, channels // k),
        *(k, t.KB, t.GB, t.WB, t.VEC, _acc(mean)),
        num_warps=t.warps,
    )
    lanes = min(triton.next_power_of_2(k), 128)
    slices = min(triton.next_power_of_2(len(parts)), 2048 // lanes)
    _fold_moments[(instances * _ceil(k, lanes),)](
        *(parts, mean, rstd, height, width, t.rows, t.column_blocks, t.row_chunks, instances),
        *(eps, k, lanes, t.WB, slices, _acc(mean)),
        num_warps=min(max(1, lanes * slices // 512), 4),
    )


def attend(
    x: Tensor,
    gates: Tensor,
    mean: Tensor,
    rstd: Tensor,
    q: Tensor,
    p: Tensor,
    taps: Tensor,
    params: Parameters,
    out: Tensor,
    gate: Tensor,
) -> None:
    """As `kernels.attend`; gates are sides."""
    batch, channels, height, width = x.shape
    k = q.shape[1]
    t = _tiling(x, k, out, numbers=16)
    _attend[(batch * t.programs,)](
        *(x, *_strides(x, t.VEC), out, *_strides(out, t.VEC), gates, mean, rstd, q, p, taps),
        *(params.gamma, params.beta, params.b3, gate, height, width, *t.blocks, channels // k),
        *(k, t.KB, t.GB, t.WB, t.VEC, _acc(q)),
        num_warps=t.warps,
    )


def delta(grad: Tensor, x: Tensor, gate: Tensor, out: Tensor) -> None:
    """As `kernels.delta`, but out is `padded`."""
    batch, channels, height, width = x.shape
    groups = gate.shape[0] // batch
    t = _tiling(x, channels // groups, grad)
    _delta[(batch * t.programs,)](
        *(x, *_strides(x, t.VEC), grad, *_grad_strides(grad, t.VEC), gate, out, height, width, *t.blocks, groups),
        *(channels // groups, t.KB, t.GB, t.WB, t.VEC, _acc(out)),
        num_warps=t.warps,
    )


def contract(
    x: Tensor,
    means: Tensor,
    gates: Tensor,
    mean: Tensor,
    rstd: Tensor,
    q: Tensor,
    params: Parameters,
    delta: Tensor,
    dpre: Tensor,
    windows: Tensor,
    coefficients: Tensor,
    sums: Tensor,
) -> None:
    """As `kernels.contract`; means and gates are sides, and so is dpre, as (K, N, L) with strides (1, L K, K).

    With t (delta - D / P) and t (t - mean), the sums for the gates' gradients have nothing left to cancel:
    t dt = kappa t (delta - D / P) + slope t (t - mean), and hh = rstd sum_p t (delta - D / P).
    """
    instances, k, sides = means.shape
    batch, channels, height, width = x.shape
    groups = channels // k
    t = _tiling(x, k, cost=3)
    total = delta.sum(1)
    slices = max(t.column_blocks, t.row_chunks)
    side_parts = mean.new_empty((slices, instances, sides, 2, k))
    tap_parts = mean.new_empty((t.column_blocks * t.row_chunks, instances, 9, k))
    _contract[(batch * t.programs,)](
        *(x, *_strides(x, t.VEC), gates, mean, delta, total, side_parts, tap_parts),
        *(height, width, *t.blocks, instances, groups),
        *(k, t.KB, t.GB, t.WB, t.VEC, _acc(mean)),
        num_warps=t.warps,
    )
    tile = _fold_tile(k, sides, slices)
    tap_slices = min(triton.next_power_of_2(len(tap_parts)), max(1, 512 // tile["KB"]))
    _fold_contract[(instances * _ceil(k, tile["KB"]),)](
        *(x, *_strides(x), side_parts, tap_parts, means, gates, mean, rstd, q, params.gamma, params.beta, total),
        *(dpre, windows, coefficients, sums, height, width, t.column_blocks, t.row_chunks, instances, groups, k),
        **tile,
        TAP_SLICES=tap_slices,
        ACC=_acc(mean),
    )


def input_gradient(
    grad: Tensor,
    x: Tensor,
    gates: Tensor,
    gate: Tensor,
    delta: Tensor,
    coefficients: Tensor,
    taps: Tensor,
    dmeans: Tensor,
    dwindows: Tensor,
    dx: Tensor,
) -> None:
    """As `kernels.input_gradient`; gates are sides, and so are dmeans, as (K, N L) with strides (1, K)."""
    batch, channels, height, width = x.shape
    k = gates.shape[1]
    t = _tiling(x, k, grad, dx, numbers=16)
    _input_gradient[(batch * t.programs,)](
        *(x, *_strides(x, t.VEC), grad, *_grad_strides(grad, t.VEC), dx, *_strides(dx, t.VEC)),
        *(gates, gate, delta, coefficients, taps, dmeans, dwindows, height, width, *t.blocks, channels // k),
        *(k, t.KB, t.GB, t.WB, t.VEC, _acc(gates)),
        num_warps=t.warps,
    )
