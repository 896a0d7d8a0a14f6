"""The backward's sums over pixels. Programs and memory are as in `forward`."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..tensors import Parameters
from .tiles import (
    SIZES,
    added,
    elements,
    gather,
    in_padded,
    lanes,
    place,
    product,
    rows_of_tile,
    side_block,
    spread,
    store_windows,
)
from .tiling import fold, group_tiling, strides


def contract(
    x: Tensor,
    means: Tensor,
    gates: Tensor,
    mean: Tensor,
    rstd: Tensor,
    q: Tensor,
    params: Parameters,
    delta: Tensor,
    total: Tensor,
    dpre: Tensor,
    windows: Tensor,
    coefficients: Tensor,
    dq: Tensor,
    hh: Tensor,
    e: Tensor,
) -> None:
    """All sums over pixels that the gradients need, of each instance n and channel c. means and gates are sides.

    With D = sum_p delta, hh = rstd sum_p (t - mean) delta, kappa = q gamma rstd, slope = -kappa rstd hh / P,
    offset = -kappa D / P - slope mean and dt = kappa delta + offset + slope t. Two sums are kept, in which nothing is
    left to cancel: t dt = kappa t (delta - D / P) + slope t (t - mean), and hh = rstd sum_p t (delta - D / P).

    dpre, sides: the gradient before the gates' sigmoid, (1 - a) sum_w t dt and (1 - d) sum_h t dt.
    windows (N, K, 9): as `moments` has them.
    coefficients (B, 3, C): kappa, offset, slope.
    total (N): D. dq (N, K): gamma hh + beta D. hh (N, K): q hh.
    e (N, 9 K): E[c, k] = sum_hw x_c(h, w) delta(h - ky + 1, w - kx + 1), zero outside.
    """
    batch, channels, height, width = x.shape
    k = q.shape[1]
    # Where groups are small, a thread keeps the sums of many: at as many numbers as elsewhere it would spill.
    t = group_tiling(x, k, numbers=16 if k <= 8 else 32)
    lanes = t.channel_blocks * t.constants["BLOCK_GROUPS"] * t.constants["BLOCK_CHANNELS"]
    side_parts = mean.new_empty((batch, t.side_parts(height, width), 2, lanes))
    pixel_parts = mean.new_empty((batch, t.column_blocks * t.row_chunks, 10, lanes))
    _contract_kernel[(batch * t.programs,)](
        *(x, *strides(x), gates, mean, delta, total, side_parts, pixel_parts, height, width, t.rows, t.row_chunks),
        **t.constants,
        num_warps=t.warps,
    )
    f = fold(t, height, width)
    _fold_contract_kernel[(batch * f.programs,)](
        *(x, *strides(x), side_parts, pixel_parts, means, gates, mean, rstd, q, params.gamma, params.beta, total),
        *(dpre, windows, coefficients, dq, hh, e, height, width, t.column_blocks, t.row_chunks),
        **f.constants,
        K=k,
        LANES=t.constants["BLOCK_CHANNELS"],
        PADDED=lanes,
        VECTOR=t.constants["VECTOR"],
        num_warps=max(2, f.warps),
    )


@triton.jit(do_not_specialize=SIZES)
def _contract_kernel(
    x,
    x_sample,
    x_row,
    x_column,
    gates,
    mean,
    delta,
    total,
    side_parts,
    pixel_parts,
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
    """side_parts (B, S, 2, lanes): row sums of t (delta - D / P) and of t (t - mean) for each block of columns, then
    column sums for each chunk of rows; pixel_parts (B, S, 10, lanes): E and the sum of t (delta - D / P). total (N): D.

    Every group has all lanes of its tile there, those of its neighbours too: stores are whole vectors.
    """
    blocks: tl.constexpr = (C // K + BLOCK_GROUPS - 1) // BLOCK_GROUPS
    padded: tl.constexpr = blocks * BLOCK_GROUPS * BLOCK_CHANNELS
    few: tl.constexpr = BLOCK_GROUPS * BLOCK_CHANNELS < 64
    sample, block, column_block, chunk, start, end = place(height, width, rows, row_chunks, blocks, BLOCK_COLUMNS)
    first = column_block * BLOCK_COLUMNS
    lane, group = rows_of_tile(block, BLOCK_GROUPS, BLOCK_COLUMNS)
    position, channel, own, touched = lanes(group, C, K, BLOCK_CHANNELS, VECTOR)
    column = first + lane
    seen = (column < width)[:, None]
    inside = touched & seen
    line, offset, step = elements(x, sample, start, first, lane, position, x_sample, x_row, x_column, C, VECTOR, DENSE)

    each = block * BLOCK_GROUPS + tl.arange(0, BLOCK_GROUPS)
    position_of_group, _, own_of_group, touched_of_group = lanes(each, C, K, BLOCK_CHANNELS, VECTOR)
    gates += sample * (height + width) * C
    d_at = gates + (height + first).to(tl.int64) * C + (lane.to(tl.int64)[:, None] * C + position)
    d = tl.load(d_at, mask=inside, other=0)
    gates += start.to(tl.int64) * C
    mu = tl.load(mean + sample * C + position_of_group, mask=touched_of_group)

    near, pitch = in_padded(delta, sample, group, start, column, height, width, C // K, BLOCK_GROUPS)
    there = tl.minimum(group, C // K - 1)
    level = tl.load(total + sample * (C // K) + there) / (height.to(ACC) * width)
    lane_of_group = each[:, None] * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)[None, :]
    column_blocks = tl.cdiv(width, BLOCK_COLUMNS)
    side_parts += sample * (column_blocks * height + row_chunks * width) * 2 * padded
    of_row = side_parts + (column_block * height + start).to(tl.int64) * 2 * padded

    columns_delta = tl.zeros((BLOCK_COLUMNS * BLOCK_GROUPS, BLOCK_CHANNELS), ACC)
    columns_t = tl.zeros((BLOCK_COLUMNS * BLOCK_GROUPS, BLOCK_CHANNELS), ACC)
    e0 = tl.zeros((BLOCK_GROUPS, BLOCK_CHANNELS), ACC)
    e1 = tl.zeros((BLOCK_GROUPS, BLOCK_CHANNELS), ACC)
    e2 = tl.zeros((BLOCK_GROUPS, BLOCK_CHANNELS), ACC)
    e3 = tl.zeros((BLOCK_GROUPS, BLOCK_CHANNELS), ACC)
    e4 = tl.zeros((BLOCK_GROUPS, BLOCK_CHANNELS), ACC)
    e5 = tl.zeros((BLOCK_GROUPS, BLOCK_CHANNELS), ACC)
    e6 = tl.zeros((BLOCK_GROUPS, BLOCK_CHANNELS), ACC)
    e7 = tl.zeros((BLOCK_GROUPS, BLOCK_CHANNELS), ACC)
    e8 = tl.zeros((BLOCK_GROUPS, BLOCK_CHANNELS), ACC)
    for _ in range(start, end):
        tile = tl.load(line + offset, mask=inside, other=0).to(ACC)
        a = tl.load(gates + position_of_group, mask=touched_of_group)
        centre = tl.load(near)
        e0 += gather(product(tile, tl.load(near + pitch + 1)[:, None], few), BLOCK_COLUMNS)
        e1 += gather(product(tile, tl.load(near + pitch)[:, None], few), BLOCK_COLUMNS)
        e2 += gather(product(tile, tl.load(near + pitch - 1)[:, None], few), BLOCK_COLUMNS)
        e3 += gather(product(tile, tl.load(near + 1)[:, None], few), BLOCK_COLUMNS)
        e4 += gather(product(tile, centre[:, None], few), BLOCK_COLUMNS)
        e5 += gather(product(tile, tl.load(near - 1)[:, None], few), BLOCK_COLUMNS)
        e6 += gather(product(tile, tl.load(near - pitch + 1)[:, None], few), BLOCK_COLUMNS)
        e7 += gather(product(tile, tl.load(near - pitch)[:, None], few), BLOCK_COLUMNS)
        e8 += gather(product(tile, tl.load(near - pitch - 1)[:, None], few), BLOCK_COLUMNS)
        tile = tile * d * spread(a, BLOCK_COLUMNS)
        of_delta = product(tile, (centre - level)[:, None], few)
        of_t = product(tile, tile - spread(mu, BLOCK_COLUMNS), few)
        columns_delta += of_delta
        columns_t += of_t
        tl.store(of_row + lane_of_group, gather(of_delta, BLOCK_COLUMNS))
        tl.store(of_row + padded + lane_of_group, gather(of_t, BLOCK_COLUMNS))
        line += step
        gates += C
        near += pitch
        of_row += 2 * padded
    of_column = side_parts + (column_blocks * height + chunk * width + first).to(tl.int64) * 2 * padded
    lane_of_tile = group[:, None] * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)[None, :]
    of_column += lane.to(tl.int64)[:, None] * 2 * padded + lane_of_tile
    tl.store(of_column, columns_delta, mask=seen)
    tl.store(of_column + padded, columns_t, mask=seen)
    pixel_parts += ((sample * row_chunks + chunk) * column_blocks + column_block) * 10 * padded + lane_of_group
    tl.store(pixel_parts, e0)
    tl.store(pixel_parts + padded, e1)
    tl.store(pixel_parts + 2 * padded, e2)
    tl.store(pixel_parts + 3 * padded, e3)
    tl.store(pixel_parts + 4 * padded, e4)
    tl.store(pixel_parts + 5 * padded, e5)
    tl.store(pixel_parts + 6 * padded, e6)
    tl.store(pixel_parts + 7 * padded, e7)
    tl.store(pixel_parts + 8 * padded, e8)
    tl.store(pixel_parts + 9 * padded, gather(columns_delta, BLOCK_COLUMNS))


@triton.jit(do_not_specialize=SIZES)
def _fold_contract_kernel(
    x,
    x_sample,
    x_row,
    x_column,
    side_parts,
    pixel_parts,
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
    dq,
    weighted,
    e,
    height,
    width,
    column_blocks,
    row_chunks,
    C: tl.constexpr,
    K: tl.constexpr,
    LANES: tl.constexpr,
    PADDED: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_SIDES: tl.constexpr,
    ACC: tl.constexpr,
):
    """dpre of some rows or columns and channels; of the first ones, the program also has the sums over all pixels."""
    blocks: tl.constexpr = (C + BLOCK_CHANNELS - 1) // BLOCK_CHANNELS
    c = (tl.program_id(0) % blocks * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS))[None, :]
    program = tl.program_id(0) // blocks
    side_blocks = tl.cdiv(height, BLOCK_SIDES) + tl.cdiv(width, BLOCK_SIDES)
    sample, program = (program // side_blocks).to(tl.int64), program % side_blocks
    mask = c < C
    group, k = c // K, c % K
    lane = group * LANES + c - group * K // VECTOR * VECTOR

    pixels = height.to(ACC) * width
    slices = column_blocks * row_chunks
    pixel_parts += sample * slices * 10 * PADDED + lane
    hh = added(pixel_parts + 9 * PADDED, mask, 10 * PADDED, slices)
    one = sample * C + c
    d = tl.load(total + sample * (C // K) + group, mask=mask, other=0)
    scale = tl.load(rstd + one, mask=mask, other=0)
    weight2 = tl.load(q + one, mask=mask, other=0)
    gain = tl.load(gamma + k, mask=mask, other=0)
    hh *= scale
    kappa = weight2 * gain * scale
    slope = -kappa * scale * hh / pixels

    side, there, at, step, slices = side_block(program, height, width, column_blocks, row_chunks, BLOCK_SIDES)
    inside = there[:, None] & mask
    side_parts += sample * (column_blocks * height + row_chunks * width) * 2 * PADDED
    first = side_parts + at.to(tl.int64)[:, None] * 2 * PADDED + lane
    psi = kappa * added(first, inside, step.to(tl.int64) * 2 * PADDED, slices)
    psi += slope * added(first + PADDED, inside, step.to(tl.int64) * 2 * PADDED, slices)
    side_of_channel = (sample * (height + width) + side)[:, None] * C + c
    opened = tl.load(gates + side_of_channel, mask=inside, other=0)
    tl.store(dpre + side_of_channel, (1 - opened) * psi, mask=inside)

    coefficients += sample * 3 * C + c
    means += sample * (height + width) * C
    x += sample * x_sample
    if program == 0:
        tl.store(coefficients, kappa, mask=mask)
        tl.store(coefficients + C, -kappa * d / pixels - slope * tl.load(mean + one, mask=mask, other=0), mask=mask)
        tl.store(coefficients + 2 * C, slope, mask=mask)
        tl.store(dq + one, gain * hh + tl.load(beta + k, mask=mask, other=0) * d, mask=mask)
        tl.store(weighted + one, weight2 * hh, mask=mask)
        for tap in tl.static_range(9):
            of_tap = added(pixel_parts + tap * PADDED, mask, 10 * PADDED, column_blocks * row_chunks)
            tl.store(e + one * 9 + tap, of_tap, mask=mask)
        store_windows(x, x_row, x_column, means, windows + sample * C * 9, c, mask, height, width, C, 8, ACC)
