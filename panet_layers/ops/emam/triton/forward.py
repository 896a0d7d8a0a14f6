"""The forward's last pass: the attention map and the output.

Every launcher writes into the tensors it is given. x, grad, out and dx are (B, C, H, W) with C = G K, channels_last or
slices of such maps; the rest is in the accumulation dtype (float32; float64 for float64), with N = B G instances,
P = H W pixels, L = H + W (rows first, then columns) and nine taps k = 3 ky + kx. `sides` are contiguous (B, L, C):
channels are innermost in everything here, and begin wherever a vector of x does.

A program takes a few groups of one sample, a block of columns and a chunk of rows, and walks down the rows; what
crosses its border goes to a buffer of partial sums, one slice a program, and a second, small kernel adds the slices up
in their order.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..tensors import Parameters
from .tiles import SIZES, elements, lanes, place, rows_of_tile, spread, store_own, tap
from .tiling import group_tiling, strides


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
    """gate (N, P) = sigmoid(y), out = x gate; gates are sides.

    y = conv(x; taps) + sum_c q_c gamma_c rstd_c (t_c - mean_c) + <q, beta> + <p, b3>, where
    conv(x; taps)(h, w) = sum_c,k taps[9 c + k] x_c(h + ky - 1, w + kx - 1), zero outside; taps (9 K), p (K), q (N, K).
    """
    batch, channels, height, width = x.shape
    t = group_tiling(x, q.shape[1], out, numbers=16)
    _attend_kernel[(batch * t.programs,)](
        *(x, *strides(x), out, *strides(out), gates, mean, rstd, q, p, taps),
        *(params.gamma, params.beta, params.b3, gate, height, width, t.rows, t.row_chunks),
        **t.constants,
        num_warps=t.warps,
    )


@triton.jit(do_not_specialize=SIZES)
def _attend_kernel(
    x,
    x_sample,
    x_row,
    x_column,
    out,
    out_sample,
    out_row,
    out_column,
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
    row_chunks,
    C: tl.constexpr,
    K: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_GROUPS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    VECTOR: tl.constexpr,
    DENSE: tl.constexpr,
    ACC: tl.constexpr,
):
    """Each row of x is read once (and its neighbours to the left and right, from the cache): it adds to the map's row
    above, its own and the one below, which wait in three accumulators, not yet summed over channels."""
    blocks: tl.constexpr = (C // K + BLOCK_GROUPS - 1) // BLOCK_GROUPS
    sample, block, column_block, chunk, start, end = place(height, width, rows, row_chunks, blocks, BLOCK_COLUMNS)
    first = column_block * BLOCK_COLUMNS
    lane, group = rows_of_tile(block, BLOCK_GROUPS, BLOCK_COLUMNS)
    position, channel, own, touched = lanes(group, C, K, BLOCK_CHANNELS, VECTOR)
    column = first + lane
    seen = (column < width)[:, None]
    begin = tl.maximum(start - 1, 0)
    line, offset, step = elements(x, sample, begin, first, lane, position, x_sample, x_row, x_column, C, VECTOR, DENSE)
    out_line, out_offset, out_step = elements(
        out, sample, begin - 1, first, lane, position, out_sample, out_row, out_column, C, VECTOR, DENSE
    )
    beside = C if DENSE else x_column // VECTOR * VECTOR
    here, to_left = touched & seen, touched & seen & (column > 0)[:, None]
    to_right = touched & (column + 1 < width)[:, None]

    each = block * BLOCK_GROUPS + tl.arange(0, BLOCK_GROUPS)
    position_of_group, channel_of_group, own_of_group, touched_of_group = lanes(each, C, K, BLOCK_CHANNELS, VECTOR)
    gates += sample * (height + width) * C
    d_at = gates + (height + first).to(tl.int64) * C + (lane.to(tl.int64)[:, None] * C + position)
    d = tl.load(d_at, mask=here)
    gates += begin.to(tl.int64) * C

    one = sample * C + position_of_group
    weight2 = tl.load(q + one, mask=own_of_group, other=0)
    kappa = weight2 * tl.load(gamma + channel_of_group, mask=own_of_group, other=0)
    kappa *= tl.load(rstd + one, mask=own_of_group, other=0)
    constant = weight2 * tl.load(beta + channel_of_group, mask=own_of_group, other=0)
    constant -= kappa * tl.load(mean + one, mask=own_of_group, other=0)
    weight1 = tl.load(p + channel_of_group, mask=own_of_group, other=0)
    constant += weight1 * tl.load(b3 + channel_of_group, mask=own_of_group, other=0)
    constant = tl.sum(spread(constant, BLOCK_COLUMNS), axis=1)
    taps += channel_of_group * 9
    w0 = tap(taps, 0, own_of_group, BLOCK_COLUMNS)
    w1 = tap(taps, 1, own_of_group, BLOCK_COLUMNS)
    w2 = tap(taps, 2, own_of_group, BLOCK_COLUMNS)
    w3 = tap(taps, 3, own_of_group, BLOCK_COLUMNS)
    w4 = tap(taps, 4, own_of_group, BLOCK_COLUMNS)
    w5 = tap(taps, 5, own_of_group, BLOCK_COLUMNS)
    w6 = tap(taps, 6, own_of_group, BLOCK_COLUMNS)
    w7 = tap(taps, 7, own_of_group, BLOCK_COLUMNS)
    w8 = tap(taps, 8, own_of_group, BLOCK_COLUMNS)

    at_gate = (column < width) & (group < C // K)
    gate += (sample * (C // K) + group) * (height.to(tl.int64) * width) + (begin - 1).to(tl.int64) * width + column
    above = tl.zeros((BLOCK_COLUMNS * BLOCK_GROUPS, BLOCK_CHANNELS), ACC)
    level = tl.zeros((BLOCK_COLUMNS * BLOCK_GROUPS, BLOCK_CHANNELS), ACC)
    before = tl.zeros((BLOCK_COLUMNS * BLOCK_GROUPS, BLOCK_CHANNELS), x.dtype.element_ty)
    for h in range(begin, tl.minimum(end + 1, height)):
        left = tl.load(line - beside + offset, mask=to_left, other=0).to(ACC)
        raw = tl.load(line + offset, mask=here)
        tile = raw.to(ACC)
        right = tl.load(line + beside + offset, mask=to_right, other=0).to(ACC)
        a = tl.load(gates + position_of_group, mask=touched_of_group)

        above += w6 * left
        above += w7 * tile
        above += w8 * right
        if h > start:
            opened = _opened(above, own, constant, K, BLOCK_CHANNELS)
            tl.store(gate, opened, mask=at_gate)
            result = (before.to(ACC) * opened[:, None]).to(out.dtype.element_ty)
            store_own(out_line + out_offset, result, position, group, own, seen, K, VECTOR)
        above = level + w3 * left
        above += (w4 + spread(kappa * a, BLOCK_COLUMNS) * d) * tile
        above += w5 * right
        level = w0 * left
        level += w1 * tile
        level += w2 * right
        before = raw
        line += step
        out_line += out_step
        gates += C
        gate += width
    if end == height:
        opened = _opened(above, own, constant, K, BLOCK_CHANNELS)
        tl.store(gate, opened, mask=at_gate)
        result = (before.to(ACC) * opened[:, None]).to(out.dtype.element_ty)
        store_own(out_line + out_offset, result, position, group, own, seen, K, VECTOR)


@triton.jit
def _opened(products, own, constant, K: tl.constexpr, BLOCK_CHANNELS: tl.constexpr):
    if K != BLOCK_CHANNELS:  # what is not ours may be infinite, and an infinity times our zero is not zero
        products = tl.where(own, products, 0)
    return tl.sigmoid(tl.sum(products, axis=1) + constant)
