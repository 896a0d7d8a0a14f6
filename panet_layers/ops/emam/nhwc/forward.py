"""Forward passes: means, the gated map's moments, the attention map and the output.

A program takes a few groups of one sample, a block of columns and a chunk of rows, and walks down the rows; what
crosses its border goes to a buffer of partial sums, one slice a program, and a second, small kernel adds the slices up
in their order. `sides` are (N, K, L) with strides (L K, 1, K): channels lie innermost in everything here.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ...launching import accumulation
from ...products import rounded_product
from ..tensors import Parameters
from .tiles import SIZES, added, gather, lanes, place, spread, store_own, store_windows
from .tiling import fold_tile, strides, tiling


def pool(x: Tensor, means: Tensor, windows: Tensor) -> None:
    """As `nchw.pool`; means are sides."""
    instances, k, sides = means.shape
    batch, channels, height, width = x.shape
    groups = channels // k
    t = tiling(x, k, cost=3)
    slices = max(t.column_blocks, t.row_chunks)
    parts = means if slices == 1 else means.new_empty((slices, instances, sides, k))
    _pool[(batch * t.programs,)](
        *(x, *strides(x, t.VEC), parts, height, width, *t.blocks, instances, groups),
        *(k, t.KB, t.GB, t.WB, t.VEC, accumulation(means)),
        num_warps=t.warps,
    )
    tile = fold_tile(k, sides, slices)
    _fold_means[(instances * triton.cdiv(k, tile["KB"]),)](
        *(x, *strides(x), parts, means, windows, height, width, t.column_blocks, t.row_chunks, instances, groups, k),
        **tile,
        FOLD=slices > 1,
        ACC=accumulation(means),
    )


@triton.jit(do_not_specialize=SIZES)
def _pool(
    x, xb, xh, xw, parts, height, width, rows, group_blocks, column_blocks, row_chunks, instances,
    groups: tl.constexpr, K: tl.constexpr, KB: tl.constexpr, GB: tl.constexpr, WB: tl.constexpr, VEC: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """parts (S, N, L, K): what each block of columns adds to the row means and each chunk of rows to the column's."""
    sample, g0, block, chunk, start, end = place(height, rows, group_blocks, column_blocks, row_chunks, GB, WB)
    row = tl.arange(0, WB * GB)
    group = g0 + row % GB
    column = block * WB + row // GB
    position, channel, own, touched = lanes(group, groups, K, KB, VEC)
    seen = (column < width)[:, None]
    x += sample.to(tl.int64) * xb * VEC
    offset = (tl.minimum(column, width - 1).to(tl.int64) * xw * VEC)[:, None] + position

    each = tl.arange(0, GB)
    _, channel_v, own_v, _ = lanes(g0 + each, groups, K, KB, VEC)
    sides = height + width
    instance = sample.to(tl.int64) * groups + g0
    side_v = (each * sides * K)[:, None] + channel_v
    row_parts = parts + (block.to(tl.int64) * instances + instance) * sides * K

    columns = tl.zeros((WB * GB, KB), ACC)
    for h in range(start, end):
        tile = tl.load(x + h * xh * VEC + offset, mask=touched & seen, other=0).to(ACC)
        columns += tile
        tl.store(row_parts + h * K + side_v, gather(tile, WB) / width, mask=own_v)
    side = ((row % GB).to(tl.int64) * sides + height + column)[:, None] * K + channel
    column_parts = parts + (chunk.to(tl.int64) * instances + instance) * sides * K
    tl.store(column_parts + side, columns / height, mask=own & seen)


@triton.jit(do_not_specialize=SIZES)
def _fold_means(
    x, xb, xh, xw, parts, means, windows, height, width, column_blocks, row_chunks, instances,
    groups: tl.constexpr, K: tl.constexpr, KB: tl.constexpr, LB: tl.constexpr, SLICES: tl.constexpr,
    FOLD: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Means from their parts (if FOLD; else they are there) and the window sums, for KB channels of one instance."""
    blocks: tl.constexpr = (K + KB - 1) // KB
    instance = (tl.program_id(0) // blocks).to(tl.int64)
    c = (tl.program_id(0) % blocks * KB + tl.arange(0, KB))[None, :]
    mask = c < K
    sides = height + width
    stride = instances.to(tl.int64) * sides * K
    parts += instance * sides * K
    means += instance * sides * K

    most = tl.maximum(column_blocks, row_chunks)
    total = tl.zeros((LB, KB), ACC)
    for first in range(0, sides, LB):
        side = (first + tl.arange(0, LB)).to(tl.int64)[:, None]
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
    x += instance // groups * xb + instance % groups * K
    store_windows(x, xh, xw, top, bottom, left, right, mean, windows + instance * K * 9, c, mask, height, width, K)


def moments(x: Tensor, gates: Tensor, eps: float, mean: Tensor, rstd: Tensor) -> None:
    """As `nchw.moments`; gates are sides."""
    instances, k, _ = gates.shape
    batch, channels, height, width = x.shape
    t = tiling(x, k)
    parts = mean.new_empty((t.column_blocks * t.row_chunks, instances, 2, k))
    _moments[(batch * t.programs,)](
        *(x, *strides(x, t.VEC), gates, parts, height, width, *t.blocks, instances, channels // k),
        *(k, t.KB, t.GB, t.WB, t.VEC, accumulation(mean)),
        num_warps=t.warps,
    )
    lanes = min(triton.next_power_of_2(k), 128)
    slices = min(8 if len(parts) <= 8 else 64, 2048 // lanes)  # two codes; a power of two for each size made eight
    _fold_moments[(instances * triton.cdiv(k, lanes),)](
        *(parts, mean, rstd, height, width, t.rows, t.column_blocks, t.row_chunks, instances),
        *(eps, k, lanes, t.WB, slices, accumulation(mean)),
        num_warps=min(max(1, lanes * slices // 512), 4),
    )


@triton.jit(do_not_specialize=SIZES)
def _moments(
    x, xb, xh, xw, gates, parts, height, width, rows, group_blocks, column_blocks, row_chunks, instances,
    groups: tl.constexpr, K: tl.constexpr, KB: tl.constexpr, GB: tl.constexpr, WB: tl.constexpr, VEC: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """parts (S, N, 2, K): a program's mean of t = x a d, and its sum of squares about that mean.

    Both come from sums about a pivot, the mean of the first row: squares about it lose at most a factor `rows`.
    """
    sample, g0, block, chunk, start, end = place(height, rows, group_blocks, column_blocks, row_chunks, GB, WB)
    row = tl.arange(0, WB * GB)
    group = g0 + row % GB
    column = block * WB + row // GB
    position, channel, own, touched = lanes(group, groups, K, KB, VEC)
    seen = (column < width)[:, None]
    x += sample.to(tl.int64) * xb * VEC
    offset = (tl.minimum(column, width - 1).to(tl.int64) * xw * VEC)[:, None] + position

    each = tl.arange(0, GB)
    _, channel_v, own_v, _ = lanes(g0 + each, groups, K, KB, VEC)
    sides = height + width
    instance = sample.to(tl.int64) * groups + g0
    gates += instance * sides * K
    side_v = (tl.minimum(each, groups - 1 - g0) * sides * K)[:, None] + channel_v
    side = ((row % GB).to(tl.int64) * sides + height + column)[:, None] * K + channel
    d = tl.load(gates + side, mask=own & seen, other=0)

    count = tl.minimum(WB, width - block * WB)
    a = tl.load(gates + start * K + side_v, mask=own_v)
    tile = tl.load(x + start * xh * VEC + offset, mask=touched).to(ACC)
    pivot = gather(tile * d, WB) * a / count

    sums = tl.zeros((WB * GB, KB), ACC)
    squares = tl.zeros((WB * GB, KB), ACC)
    for h in range(start, end):
        a = tl.load(gates + h * K + side_v, mask=own_v)
        tile = tl.load(x + h * xh * VEC + offset, mask=touched).to(ACC)
        distance = tile * d * spread(a, WB) - spread(pivot, WB)
        sums += distance
        squares += distance * distance
    count *= end - start
    total = gather(tl.where(seen, sums, 0), WB)
    square = gather(tl.where(seen, squares, 0), WB)
    part = ((chunk * column_blocks + block).to(tl.int64) * instances + instance) * 2 * K
    part_v = parts + part + (each * 2 * K)[:, None] + channel_v
    tl.store(part_v, pivot + total / count, mask=own_v)
    tl.store(part_v + K, square - total * (total / count), mask=own_v)


@triton.jit(do_not_specialize=SIZES)
def _fold_moments(
    parts, mean, rstd, height, width, rows, column_blocks, row_chunks, instances,
    eps: tl.constexpr, K: tl.constexpr, KB: tl.constexpr, WB: tl.constexpr, SLICES: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
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
        centre += tl.sum(rounded_product(part, (wide * high).to(ACC)), axis=0)
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
    """As `nchw.attend`; gates are sides."""
    batch, channels, height, width = x.shape
    k = q.shape[1]
    t = tiling(x, k, out, numbers=16)
    _attend[(batch * t.programs,)](
        *(x, *strides(x, t.VEC), out, *strides(out, t.VEC), gates, mean, rstd, q, p, taps),
        *(params.gamma, params.beta, params.b3, gate, height, width, *t.blocks, channels // k),
        *(k, t.KB, t.GB, t.WB, t.VEC, accumulation(q)),
        num_warps=t.warps,
    )


@triton.jit(do_not_specialize=SIZES)
def _attend(
    x, xb, xh, xw, out, ob, oh, ow, gates, mean, rstd, q, p, taps, gamma, beta, b3, gate, height, width, rows,
    group_blocks, column_blocks, row_chunks,
    groups: tl.constexpr, K: tl.constexpr, KB: tl.constexpr, GB: tl.constexpr, WB: tl.constexpr, VEC: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """Each row of x is read once (and its neighbours to the left and right, from the cache): it adds to the map's row
    above, its own and the one below, which wait in three accumulators, not yet summed over channels."""
    sample, g0, block, chunk, start, end = place(height, rows, group_blocks, column_blocks, row_chunks, GB, WB)
    row = tl.arange(0, WB * GB)
    group = g0 + row % GB
    column = block * WB + row // GB
    position, channel, own, touched = lanes(group, groups, K, KB, VEC)
    seen = (column < width)[:, None]
    x += sample.to(tl.int64) * xb * VEC
    out += sample.to(tl.int64) * ob * VEC
    offset = (tl.minimum(column, width - 1).to(tl.int64) * xw * VEC)[:, None] + position
    out_offset = (column.to(tl.int64) * ow * VEC)[:, None] + position
    to_left = touched & (column > 0)[:, None]
    to_right = touched & (column + 1 < width)[:, None]

    each = tl.arange(0, GB)
    _, channel_v, own_v, _ = lanes(g0 + each, groups, K, KB, VEC)
    sides = height + width
    instance = sample.to(tl.int64) * groups + g0
    gates += instance * sides * K
    side_v = (tl.minimum(each, groups - 1 - g0) * sides * K)[:, None] + channel_v
    side = ((row % GB).to(tl.int64) * sides + height + column)[:, None] * K + channel
    d = tl.load(gates + side, mask=own & seen, other=0)

    one = instance * K + (each * K)[:, None] + channel_v
    weight2 = tl.load(q + one, mask=own_v, other=0)
    kappa = weight2 * tl.load(gamma + channel_v, mask=own_v, other=0) * tl.load(rstd + one, mask=own_v, other=0)
    constant = weight2 * tl.load(beta + channel_v, mask=own_v, other=0)
    constant -= kappa * tl.load(mean + one, mask=own_v, other=0)
    constant += tl.load(p + channel_v, mask=own_v, other=0) * tl.load(b3 + channel_v, mask=own_v, other=0)
    constant = tl.sum(spread(constant, WB), axis=1)
    taps += channel_v * 9
    w0 = spread(tl.load(taps, mask=own_v, other=0), WB)
    w1 = spread(tl.load(taps + 1, mask=own_v, other=0), WB)
    w2 = spread(tl.load(taps + 2, mask=own_v, other=0), WB)
    w3 = spread(tl.load(taps + 3, mask=own_v, other=0), WB)
    w4 = spread(tl.load(taps + 4, mask=own_v, other=0), WB)
    w5 = spread(tl.load(taps + 5, mask=own_v, other=0), WB)
    w6 = spread(tl.load(taps + 6, mask=own_v, other=0), WB)
    w7 = spread(tl.load(taps + 7, mask=own_v, other=0), WB)
    w8 = spread(tl.load(taps + 8, mask=own_v, other=0), WB)

    gate += (instance + row % GB) * (height.to(tl.int64) * width) + column
    at_gate = (column < width) & (group < groups)
    above = tl.zeros((WB * GB, KB), ACC)
    here = tl.zeros((WB * GB, KB), ACC)
    before = tl.zeros((WB * GB, KB), x.dtype.element_ty)
    for h in range(tl.maximum(start - 1, 0), tl.minimum(end + 1, height)):
        line = x + h * xh * VEC + offset
        left = tl.load(line - xw * VEC, mask=to_left, other=0).to(ACC)
        raw = tl.load(line, mask=touched)
        tile = raw.to(ACC)
        right = tl.load(line + xw * VEC, mask=to_right, other=0).to(ACC)
        a = tl.load(gates + h * K + side_v, mask=own_v)

        above += w6 * left
        above += w7 * tile
        above += w8 * right
        if h > start:
            opened = _opened(above, own, constant, K, KB)
            tl.store(gate + (h - 1) * width, opened, mask=at_gate)
            result = (before.to(ACC) * opened[:, None]).to(out.dtype.element_ty)
            store_own(out + (h - 1) * oh * VEC + out_offset, result, position, group, own, seen, K, VEC)
        above = here + w3 * left
        above += (w4 + spread(kappa * a, WB) * d) * tile
        above += w5 * right
        here = w0 * left
        here += w1 * tile
        here += w2 * right
        before = raw
    if end == height:
        opened = _opened(above, own, constant, K, KB)
        tl.store(gate + (end - 1) * width, opened, mask=at_gate)
        result = (before.to(ACC) * opened[:, None]).to(out.dtype.element_ty)
        store_own(out + (end - 1) * oh * VEC + out_offset, result, position, group, own, seen, K, VEC)


@triton.jit
def _opened(products, own, constant, K: tl.constexpr, KB: tl.constexpr):
    if K != KB:  # what is not ours may be infinite, and an infinity times our zero is not zero
        products = tl.where(own, products, 0)
    return tl.sigmoid(tl.sum(products, axis=1) + constant)
