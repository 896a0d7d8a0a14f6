"""The forward's last pass: the attention map and the output.

Every launcher writes into the tensors it is given. x, grad, out and dx are (B, C, H, W) with C = G K, channels_last or
slices of such maps; the rest is in the accumulation dtype (float32; float64 for float64), with N = B G instances,
P = H W pixels, L = H + W (rows first, then columns) and nine taps k = 3 ky + kx. `sides` are (N, K, L) with strides
(L K, 1, K): channels are innermost in everything here.

A program takes a few groups of one sample, a block of columns and a chunk of rows, and walks down the rows; what
crosses its border goes to a buffer of partial sums, one slice a program, and a second, small kernel adds the slices up
in their order.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ...launching import accumulation
from ..tensors import Parameters
from .tiles import SIZES, lanes, place, spread, store_own
from .tiling import strides, tiling


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
    k = q.shape[1]
    t = tiling(x, k, out, numbers=16)
    _attend[(batch * t.programs,)](
        *(x, *strides(x, t.CHANNEL_VECTOR), out, *strides(out, t.CHANNEL_VECTOR), gates, mean, rstd, q, p, taps),
        *(params.gamma, params.beta, params.b3, gate, height, width, *t.blocks, channels // k),
        *(k, t.BLOCK_CHANNELS, t.BLOCK_GROUPS, t.BLOCK_COLUMNS, t.CHANNEL_VECTOR, accumulation(q)),
        num_warps=t.warps,
    )


@triton.jit(do_not_specialize=SIZES)
def _attend(
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
    group_blocks,
    column_blocks,
    row_chunks,
    groups: tl.constexpr,
    K: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_GROUPS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    CHANNEL_VECTOR: tl.constexpr,
    ACC: tl.constexpr,
):
    """Each row of x is read once (and its neighbours to the left and right, from the cache): it adds to the map's row
    above, its own and the one below, which wait in three accumulators, not yet summed over channels."""
    sample, first_group, block, chunk, start, end = place(
        height, rows, group_blocks, column_blocks, row_chunks, BLOCK_GROUPS, BLOCK_COLUMNS
    )
    row = tl.arange(0, BLOCK_COLUMNS * BLOCK_GROUPS)
    group = first_group + row % BLOCK_GROUPS
    column = block * BLOCK_COLUMNS + row // BLOCK_GROUPS
    position, channel, own, touched = lanes(group, groups, K, BLOCK_CHANNELS, CHANNEL_VECTOR)
    seen = (column < width)[:, None]
    x += sample.to(tl.int64) * x_sample * CHANNEL_VECTOR
    out += sample.to(tl.int64) * out_sample * CHANNEL_VECTOR
    offset = (tl.minimum(column, width - 1).to(tl.int64) * x_column * CHANNEL_VECTOR)[:, None] + position
    out_offset = (column.to(tl.int64) * out_column * CHANNEL_VECTOR)[:, None] + position
    to_left = touched & (column > 0)[:, None]
    to_right = touched & (column + 1 < width)[:, None]

    each = tl.arange(0, BLOCK_GROUPS)
    _, channel_of_group, own_of_group, _ = lanes(first_group + each, groups, K, BLOCK_CHANNELS, CHANNEL_VECTOR)
    sides = height + width
    instance = sample.to(tl.int64) * groups + first_group
    gates += instance * sides * K
    side_of_group = (tl.minimum(each, groups - 1 - first_group) * sides * K)[:, None] + channel_of_group
    side = ((row % BLOCK_GROUPS).to(tl.int64) * sides + height + column)[:, None] * K + channel
    d = tl.load(gates + side, mask=own & seen, other=0)

    one = instance * K + (each * K)[:, None] + channel_of_group
    weight2 = tl.load(q + one, mask=own_of_group, other=0)
    kappa = (
        weight2
        * tl.load(gamma + channel_of_group, mask=own_of_group, other=0)
        * tl.load(rstd + one, mask=own_of_group, other=0)
    )
    constant = weight2 * tl.load(beta + channel_of_group, mask=own_of_group, other=0)
    constant -= kappa * tl.load(mean + one, mask=own_of_group, other=0)
    constant += tl.load(p + channel_of_group, mask=own_of_group, other=0) * tl.load(
        b3 + channel_of_group, mask=own_of_group, other=0
    )
    constant = tl.sum(spread(constant, BLOCK_COLUMNS), axis=1)
    taps += channel_of_group * 9
    w0 = spread(tl.load(taps, mask=own_of_group, other=0), BLOCK_COLUMNS)
    w1 = spread(tl.load(taps + 1, mask=own_of_group, other=0), BLOCK_COLUMNS)
    w2 = spread(tl.load(taps + 2, mask=own_of_group, other=0), BLOCK_COLUMNS)
    w3 = spread(tl.load(taps + 3, mask=own_of_group, other=0), BLOCK_COLUMNS)
    w4 = spread(tl.load(taps + 4, mask=own_of_group, other=0), BLOCK_COLUMNS)
    w5 = spread(tl.load(taps + 5, mask=own_of_group, other=0), BLOCK_COLUMNS)
    w6 = spread(tl.load(taps + 6, mask=own_of_group, other=0), BLOCK_COLUMNS)
    w7 = spread(tl.load(taps + 7, mask=own_of_group, other=0), BLOCK_COLUMNS)
    w8 = spread(tl.load(taps + 8, mask=own_of_group, other=0), BLOCK_COLUMNS)

    gate += (instance + row % BLOCK_GROUPS) * (height.to(tl.int64) * width) + column
    at_gate = (column < width) & (group < groups)
    above = tl.zeros((BLOCK_COLUMNS * BLOCK_GROUPS, BLOCK_CHANNELS), ACC)
    here = tl.zeros((BLOCK_COLUMNS * BLOCK_GROUPS, BLOCK_CHANNELS), ACC)
    before = tl.zeros((BLOCK_COLUMNS * BLOCK_GROUPS, BLOCK_CHANNELS), x.dtype.element_ty)
    for h in range(tl.maximum(start - 1, 0), tl.minimum(end + 1, height)):
        line = x + h * x_row * CHANNEL_VECTOR + offset
        left = tl.load(line - x_column * CHANNEL_VECTOR, mask=to_left, other=0).to(ACC)
        raw = tl.load(line, mask=touched)
        tile = raw.to(ACC)
        right = tl.load(line + x_column * CHANNEL_VECTOR, mask=to_right, other=0).to(ACC)
        a = tl.load(gates + h * K + side_of_group, mask=own_of_group)

        above += w6 * left
        above += w7 * tile
        above += w8 * right
        if h > start:
            opened = _opened(above, own, constant, K, BLOCK_CHANNELS)
            tl.store(gate + (h - 1) * width, opened, mask=at_gate)
            result = (before.to(ACC) * opened[:, None]).to(out.dtype.element_ty)
            store_own(
                out + (h - 1) * out_row * CHANNEL_VECTOR + out_offset,
                result,
                position,
                group,
                own,
                seen,
                K,
                CHANNEL_VECTOR,
            )
        above = here + w3 * left
        above += (w4 + spread(kappa * a, BLOCK_COLUMNS) * d) * tile
        above += w5 * right
        here = w0 * left
        here += w1 * tile
        here += w2 * right
        before = raw
    if end == height:
        opened = _opened(above, own, constant, K, BLOCK_CHANNELS)
        tl.store(gate + (end - 1) * width, opened, mask=at_gate)
        result = (before.to(ACC) * opened[:, None]).to(out.dtype.element_ty)
        store_own(
            out + (end - 1) * out_row * CHANNEL_VECTOR + out_offset,
            result,
            position,
            group,
            own,
            seen,
            K,
            CHANNEL_VECTOR,
        )


@triton.jit
def _opened(products, own, constant, K: tl.constexpr, BLOCK_CHANNELS: tl.constexpr):
    if K != BLOCK_CHANNELS:  # what is not ours may be infinite, and an infinity times our zero is not zero
        products = tl.where(own, products, 0)
    return tl.sigmoid(tl.sum(products, axis=1) + constant)
