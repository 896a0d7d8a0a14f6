"""The backward's sums over pixels. Programs and memory are as in `forward`."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ...launching import accumulation
from ..tensors import Parameters
from .tiles import SIZES, added, gather, lanes, padded_size, place, spread, store_windows
from .tiling import fold_tile, strides, tiling


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
    """All sums over pixels that the gradients need, of each instance n and channel c. means and gates are sides.

    With D = sum_p delta, hh = rstd sum_p (t - mean) delta, kappa = q gamma rstd, slope = -kappa rstd hh / P,
    offset = -kappa D / P - slope mean and dt = kappa delta + offset + slope t. Two sums are kept, in which nothing is
    left to cancel: t dt = kappa t (delta - D / P) + slope t (t - mean), and hh = rstd sum_p t (delta - D / P).

    dpre, sides as (K, N, L): the gradient before the gates' sigmoid, (1 - a) sum_w t dt and (1 - d) sum_h t dt.
    windows (N, K, 9): as `pool` has them.
    coefficients (N, 3, K): kappa, offset, slope.
    sums (N, 13 K): gamma hh + beta D | q hh | q D | dpre summed over L | E (K, 9),
    E[c, k] = sum_hw x_c(h, w) delta(h - ky + 1, w - kx + 1), zero outside.
    """
    instances, k, sides = means.shape
    batch, channels, height, width = x.shape
    groups = channels // k
    # Where groups are small, a thread keeps the sums of many: at as many numbers as elsewhere it would spill.
    t = tiling(x, k, cost=3, numbers=16 if k <= 8 else 32)
    total = delta.sum(1)
    slices = max(t.column_blocks, t.row_chunks)
    side_parts = mean.new_empty((slices, instances, sides, 2, k))
    tap_parts = mean.new_empty((t.column_blocks * t.row_chunks, instances, 9, k))
    _contract[(batch * t.programs,)](
        *(x, *strides(x, t.CHANNEL_VECTOR), gates, mean, delta, total, side_parts, tap_parts),
        *(height, width, *t.blocks, instances, groups),
        *(k, t.BLOCK_CHANNELS, t.BLOCK_GROUPS, t.BLOCK_COLUMNS, t.CHANNEL_VECTOR, accumulation(mean)),
        num_warps=t.warps,
    )
    tile = fold_tile(k, sides, slices)
    tap_slices = min(triton.next_power_of_2(len(tap_parts)), max(1, 512 // tile["BLOCK_CHANNELS"]))
    _fold_contract[(instances * triton.cdiv(k, tile["BLOCK_CHANNELS"]),)](
        *(x, *strides(x), side_parts, tap_parts, means, gates, mean, rstd, q, params.gamma, params.beta, total),
        *(dpre, windows, coefficients, sums, height, width, t.column_blocks, t.row_chunks, instances, groups, k),
        **tile,
        TAP_SLICES=tap_slices,
        ACC=accumulation(mean),
    )


@triton.jit(do_not_specialize=SIZES)
def _contract(
    x,
    x_sample,
    x_row,
    x_column,
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
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_GROUPS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    CHANNEL_VECTOR: tl.constexpr,
    ACC: tl.constexpr,
):
    """side_parts (S, N, L, 2, K): row and column sums of t (delta - D / P) and of t (t - mean); tap_parts (S, N, 9, K):
    E; each over one block of columns or chunk of rows. total (N): D."""
    sample, first_group, block, chunk, start, end = place(
        height, rows, group_blocks, column_blocks, row_chunks, BLOCK_GROUPS, BLOCK_COLUMNS
    )
    row = tl.arange(0, BLOCK_COLUMNS * BLOCK_GROUPS)
    group = first_group + row % BLOCK_GROUPS
    column = block * BLOCK_COLUMNS + row // BLOCK_GROUPS
    position, channel, own, touched = lanes(group, groups, K, BLOCK_CHANNELS, CHANNEL_VECTOR)
    seen = (column < width)[:, None]
    there = tl.minimum(group, groups - 1) - first_group
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
    mu = tl.load(mean + instance * K + (each * K)[:, None] + channel_of_group, mask=own_of_group, other=0)

    pixels = height.to(tl.int64) * width
    level = tl.load(total + instance + there) / pixels.to(ACC)
    pitch = width + 2
    delta += (instance + there) * padded_size(height, width) + pitch + 1 + column
    two_of_group = (each * sides * 2 * K)[:, None] + channel_of_group
    row_parts = side_parts + (block.to(tl.int64) * instances + instance) * sides * 2 * K
    column_parts = side_parts + (chunk.to(tl.int64) * instances + instance) * sides * 2 * K

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
    for h in range(start, end):
        tile = tl.load(x + h * x_row * CHANNEL_VECTOR + offset, mask=touched & seen, other=0).to(ACC)
        a = tl.load(gates + h * K + side_of_group, mask=own_of_group)
        near = delta + h * pitch
        centre = tl.load(near)
        e0 += gather(tile * tl.load(near + pitch + 1)[:, None], BLOCK_COLUMNS)
        e1 += gather(tile * tl.load(near + pitch)[:, None], BLOCK_COLUMNS)
        e2 += gather(tile * tl.load(near + pitch - 1)[:, None], BLOCK_COLUMNS)
        e3 += gather(tile * tl.load(near + 1)[:, None], BLOCK_COLUMNS)
        e4 += gather(tile * centre[:, None], BLOCK_COLUMNS)
        e5 += gather(tile * tl.load(near - 1)[:, None], BLOCK_COLUMNS)
        e6 += gather(tile * tl.load(near - pitch + 1)[:, None], BLOCK_COLUMNS)
        e7 += gather(tile * tl.load(near - pitch)[:, None], BLOCK_COLUMNS)
        e8 += gather(tile * tl.load(near - pitch - 1)[:, None], BLOCK_COLUMNS)
        tile = tile * d * spread(a, BLOCK_COLUMNS)
        of_delta = tile * (centre - level)[:, None]
        of_t = tile * (tile - spread(mu, BLOCK_COLUMNS))
        columns_delta += of_delta
        columns_t += of_t
        tl.store(row_parts + h * 2 * K + two_of_group, gather(of_delta, BLOCK_COLUMNS), mask=own_of_group)
        tl.store(row_parts + h * 2 * K + two_of_group + K, gather(of_t, BLOCK_COLUMNS), mask=own_of_group)
    two = ((row % BLOCK_GROUPS).to(tl.int64) * sides + height + column)[:, None] * 2 * K + channel
    tl.store(column_parts + two, columns_delta, mask=own & seen)
    tl.store(column_parts + two + K, columns_t, mask=own & seen)
    tap_parts += ((chunk * column_blocks + block).to(tl.int64) * instances + instance) * 9 * K
    tap_of_group = tap_parts + (each * 9 * K)[:, None] + channel_of_group
    tl.store(tap_of_group, e0, mask=own_of_group)
    tl.store(tap_of_group + K, e1, mask=own_of_group)
    tl.store(tap_of_group + 2 * K, e2, mask=own_of_group)
    tl.store(tap_of_group + 3 * K, e3, mask=own_of_group)
    tl.store(tap_of_group + 4 * K, e4, mask=own_of_group)
    tl.store(tap_of_group + 5 * K, e5, mask=own_of_group)
    tl.store(tap_of_group + 6 * K, e6, mask=own_of_group)
    tl.store(tap_of_group + 7 * K, e7, mask=own_of_group)
    tl.store(tap_of_group + 8 * K, e8, mask=own_of_group)


@triton.jit(do_not_specialize=SIZES)
def _fold_contract(
    x,
    x_sample,
    x_row,
    x_column,
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
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_SIDES: tl.constexpr,
    SLICES: tl.constexpr,
    TAP_SLICES: tl.constexpr,
    ACC: tl.constexpr,
):
    """From the parts of `_contract` to what the launcher returns, for some channels of one instance."""
    blocks: tl.constexpr = (K + BLOCK_CHANNELS - 1) // BLOCK_CHANNELS
    instance = (tl.program_id(0) // blocks).to(tl.int64)
    c = (tl.program_id(0) % blocks * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS))[None, :]
    mask = c < K
    sides = height + width
    pixels = height.to(ACC) * width
    stride = instances.to(tl.int64) * sides * 2 * K
    side_parts += instance * sides * 2 * K
    means += instance * sides * K
    gates += instance * sides * K
    dpre += instance * sides * K

    slopes = tl.zeros((BLOCK_SIDES, BLOCK_CHANNELS), ACC)
    mean_columns = tl.zeros((BLOCK_SIDES, BLOCK_CHANNELS), ACC)
    for first in range(0, width, BLOCK_SIDES):
        side = (height + first + tl.arange(0, BLOCK_SIDES)).to(tl.int64)[:, None]
        inside = (side < sides) & mask
        slopes += added(side_parts, side * 2 * K + c, inside, row_chunks, row_chunks, stride, SLICES)
        mean_columns += tl.load(means + side * K + c, mask=inside, other=0)

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

    most = tl.maximum(column_blocks, row_chunks)
    bias = tl.zeros((BLOCK_SIDES, BLOCK_CHANNELS), ACC)
    for first in range(0, sides, BLOCK_SIDES):
        side = (first + tl.arange(0, BLOCK_SIDES)).to(tl.int64)[:, None]
        inside, count = (side < sides) & mask, tl.where(side < height, column_blocks, row_chunks)
        at = side * 2 * K + c
        by_delta = added(side_parts, at, inside, count, most, stride, SLICES)
        by_t = added(side_parts, at + K, inside, count, most, stride, SLICES)
        opened = tl.load(gates + side * K + c, mask=inside, other=0)
        value = (1 - opened) * (kappa * by_delta + slope * by_t)
        tl.store(dpre + side * K + c, value, mask=inside)
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
    e = added(
        tap_parts, tap * K + c, taken, column_blocks * row_chunks, column_blocks * row_chunks, tap_stride, TAP_SLICES
    )
    tl.store(sums + 4 * K + c * 9 + tap, e, mask=taken)

    column = means + height.to(tl.int64) * K
    top = tl.load(means + c, mask=mask, other=0)
    bottom = tl.load(means + (height - 1).to(tl.int64) * K + c, mask=mask, other=0)
    left = tl.load(column + c, mask=mask, other=0)
    right = tl.load(column + (width - 1).to(tl.int64) * K + c, mask=mask, other=0)
    mean_x = tl.sum(mean_columns, axis=0)[None, :] / width
    x += instance // groups * x_sample + instance % groups * K
    store_windows(
        x, x_row, x_column, top, bottom, left, right, mean_x, windows + instance * K * 9, c, mask, height, width, K
    )
