"""Backward passes: the gradient before the last sigmoid, and that of the input.

Programs and memory are as in `forward`.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ...launching import accumulation
from ...products import rounded_product
from .tiles import SIZES, lanes, padded_size, place, spread, store_own
from .tiling import MARGIN, strides, tiling


def padded(gate: Tensor, height: int, width: int) -> Tensor:
    """Room for `delta`: (N, (H + 2) (W + 2) + MARGIN), zero; neighbours are then read without asking where one is."""
    return gate.new_zeros(gate.shape[0], (height + 2) * (width + 2) + MARGIN.value)


def delta(grad: Tensor, x: Tensor, gate: Tensor, out: Tensor) -> None:
    """out, `padded` = gate (1 - gate) sum_c grad_c x_c: the gradient before the last sigmoid; gate (N, P)."""
    batch, channels, height, width = x.shape
    groups = gate.shape[0] // batch
    t = tiling(x, channels // groups, grad)
    _delta[(batch * t.programs,)](
        *(
            x,
            *strides(x, t.CHANNEL_VECTOR),
            grad,
            *strides(grad, t.CHANNEL_VECTOR),
            gate,
            out,
            height,
            width,
            *t.blocks,
            groups,
        ),
        *(channels // groups, t.BLOCK_CHANNELS, t.BLOCK_GROUPS, t.BLOCK_COLUMNS, t.CHANNEL_VECTOR, accumulation(out)),
        num_warps=t.warps,
    )


@triton.jit(do_not_specialize=SIZES)
def _delta(
    x,
    x_sample,
    x_row,
    x_column,
    grad,
    grad_sample,
    grad_row,
    grad_column,
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
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_GROUPS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    CHANNEL_VECTOR: tl.constexpr,
    ACC: tl.constexpr,
):
    sample, first_group, block, chunk, start, end = place(
        height, rows, group_blocks, column_blocks, row_chunks, BLOCK_GROUPS, BLOCK_COLUMNS
    )
    row = tl.arange(0, BLOCK_COLUMNS * BLOCK_GROUPS)
    group = first_group + row % BLOCK_GROUPS
    column = block * BLOCK_COLUMNS + row // BLOCK_GROUPS
    position, channel, own, touched = lanes(group, groups, K, BLOCK_CHANNELS, CHANNEL_VECTOR)
    x += sample.to(tl.int64) * x_sample * CHANNEL_VECTOR
    grad += sample.to(tl.int64) * grad_sample * CHANNEL_VECTOR
    inside = tl.minimum(column, width - 1).to(tl.int64)[:, None]
    offset, grad_offset = (
        inside * x_column * CHANNEL_VECTOR + position,
        inside * grad_column * CHANNEL_VECTOR + position,
    )
    instance = sample.to(tl.int64) * groups + group
    gate += instance * (height.to(tl.int64) * width) + column
    pitch = width + 2
    out += instance * padded_size(height, width) + pitch + 1 + column
    at_gate = (column < width) & (group < groups)
    for h in range(start, end):
        tile = tl.load(x + h * x_row * CHANNEL_VECTOR + offset, mask=touched).to(ACC)
        of_grad = tl.load(grad + h * grad_row * CHANNEL_VECTOR + grad_offset, mask=touched).to(ACC)
        tile = rounded_product(tile, of_grad)
        if K != BLOCK_CHANNELS:
            tile = tl.where(own, tile, 0)
        opened = tl.load(gate + h * width, mask=at_gate, other=0)
        value = tl.sum(tile, axis=1) * (opened * (1 - opened))
        tl.store(out + h * pitch, value, mask=at_gate)


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
    """dx = grad gate + dt a d + dmeans / (W or H) + sum_k taps[9 c + k] delta(h - ky + 1, w - kx + 1) + windows' part.

    gates are sides, and so are dmeans, as (K, N L) with strides (1, K): the gradient of the row and column means.
    dwindows (N, 9 K): the gradient of the window sums (not means): dx(h, w) gets dwindows[9 c + k] of each tap for
    which (h - ky + 1, w - kx + 1) is inside. delta as `delta` writes it, coefficients as `contract` does.
    """
    batch, channels, height, width = x.shape
    k = gates.shape[1]
    t = tiling(x, k, grad, dx, numbers=16)
    _input_gradient[(batch * t.programs,)](
        *(x, *strides(x, t.CHANNEL_VECTOR), grad, *strides(grad, t.CHANNEL_VECTOR), dx, *strides(dx, t.CHANNEL_VECTOR)),
        *(gates, gate, delta, coefficients, taps, dmeans, dwindows, height, width, *t.blocks, channels // k),
        *(k, t.BLOCK_CHANNELS, t.BLOCK_GROUPS, t.BLOCK_COLUMNS, t.CHANNEL_VECTOR, accumulation(gates)),
        num_warps=t.warps,
    )


@triton.jit(do_not_specialize=SIZES)
def _input_gradient(
    x,
    x_sample,
    x_row,
    x_column,
    grad,
    grad_sample,
    grad_row,
    grad_column,
    out,
    out_sample,
    out_row,
    out_column,
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
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_GROUPS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    CHANNEL_VECTOR: tl.constexpr,
    ACC: tl.constexpr,
):
    """A row of dx at a time; the neighbours' delta comes from the cache."""
    sample, first_group, block, chunk, start, end = place(
        height, rows, group_blocks, column_blocks, row_chunks, BLOCK_GROUPS, BLOCK_COLUMNS
    )
    row = tl.arange(0, BLOCK_COLUMNS * BLOCK_GROUPS)
    group = first_group + row % BLOCK_GROUPS
    column = block * BLOCK_COLUMNS + row // BLOCK_GROUPS
    position, channel, own, touched = lanes(group, groups, K, BLOCK_CHANNELS, CHANNEL_VECTOR)
    there = tl.minimum(group, groups - 1) - first_group
    in_map = (column < width)[:, None]
    x += sample.to(tl.int64) * x_sample * CHANNEL_VECTOR
    grad += sample.to(tl.int64) * grad_sample * CHANNEL_VECTOR
    out += sample.to(tl.int64) * out_sample * CHANNEL_VECTOR
    inside = tl.minimum(column, width - 1).to(tl.int64)[:, None]
    offset, grad_offset = (
        inside * x_column * CHANNEL_VECTOR + position,
        inside * grad_column * CHANNEL_VECTOR + position,
    )
    out_offset = inside * out_column * CHANNEL_VECTOR + position

    each = tl.arange(0, BLOCK_GROUPS)
    _, channel_of_group, own_of_group, _ = lanes(first_group + each, groups, K, BLOCK_CHANNELS, CHANNEL_VECTOR)
    sides = height + width
    instance = sample.to(tl.int64) * groups + first_group
    gates += instance * sides * K
    dmeans += instance * sides * K
    side_of_group = (tl.minimum(each, groups - 1 - first_group) * sides * K)[:, None] + channel_of_group
    side = ((row % BLOCK_GROUPS).to(tl.int64) * sides + height + column)[:, None] * K + channel
    d = tl.load(gates + side, mask=own & in_map, other=0)

    three = coefficients + instance * 3 * K + (each * 3 * K)[:, None] + channel_of_group
    kappa = tl.load(three, mask=own_of_group, other=0)
    shift = tl.load(three + K, mask=own_of_group, other=0)
    slope = tl.load(three + 2 * K, mask=own_of_group, other=0)

    # dx gets each tap of dwindows that sees it: all but three in a border row or column, all but five in a corner.
    nine_of_group = dwindows + instance * 9 * K + (each * 9 * K)[:, None] + channel_of_group * 9
    first_column, last_column = (column == 0)[:, None], (column == width - 1)[:, None]
    left = _three(nine_of_group, 3, own_of_group)
    right = _three(nine_of_group + 2, 3, own_of_group)
    by_column = tl.load(dmeans + side, mask=own & in_map, other=0) / height
    by_column += spread(left + _three(nine_of_group + 1, 3, own_of_group) + right, BLOCK_COLUMNS)
    by_column -= tl.where(last_column, spread(left, BLOCK_COLUMNS), 0) + tl.where(
        first_column, spread(right, BLOCK_COLUMNS), 0
    )

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

    gate += (instance + there) * (height.to(tl.int64) * width) + tl.minimum(column, width - 1)
    pitch = width + 2
    delta += (instance + there) * padded_size(height, width) + pitch + 1 + column
    per_row = 1.0 / width.to(ACC)
    for h in range(start, end):
        tile = tl.load(x + h * x_row * CHANNEL_VECTOR + offset, mask=touched).to(ACC)
        result = tl.load(grad + h * grad_row * CHANNEL_VECTOR + grad_offset, mask=touched).to(ACC)
        a = tl.load(gates + h * K + side_of_group, mask=own_of_group)
        by_row = tl.load(dmeans + h * K + side_of_group, mask=own_of_group) * per_row
        near = delta + h * pitch
        centre = tl.load(near)
        opened = tl.load(gate + h * width)

        result = result * opened[:, None] + by_column + spread(by_row, BLOCK_COLUMNS)
        ad = d * spread(a, BLOCK_COLUMNS)
        dt = spread(slope, BLOCK_COLUMNS) * (ad * tile) + spread(shift, BLOCK_COLUMNS)
        dt += spread(kappa, BLOCK_COLUMNS) * centre[:, None]
        result += dt * ad
        result += w4 * centre[:, None]
        result += w0 * tl.load(near + pitch + 1)[:, None]
        result += w1 * tl.load(near + pitch)[:, None]
        result += w2 * tl.load(near + pitch - 1)[:, None]
        result += w3 * tl.load(near + 1)[:, None]
        result += w5 * tl.load(near - 1)[:, None]
        result += w6 * tl.load(near - pitch + 1)[:, None]
        result += w7 * tl.load(near - pitch)[:, None]
        result += w8 * tl.load(near - pitch - 1)[:, None]
        if h == 0:
            result -= _missed(nine_of_group + 6, own_of_group, first_column, last_column, BLOCK_COLUMNS)
        if h == height - 1:
            result -= _missed(nine_of_group, own_of_group, first_column, last_column, BLOCK_COLUMNS)
        pointer = out + h * out_row * CHANNEL_VECTOR + out_offset
        store_own(pointer, result.to(out.dtype.element_ty), position, group, own, in_map, K, CHANNEL_VECTOR)


@triton.jit
def _three(pointer, step, mask):
    total = tl.load(pointer, mask=mask, other=0) + tl.load(pointer + step, mask=mask, other=0)
    return total + tl.load(pointer + 2 * step, mask=mask, other=0)


@triton.jit
def _missed(taps, own_of_group, first_column, last_column, BLOCK_COLUMNS: tl.constexpr):
    """The three taps that don't see a border row, less those that don't see the border column either."""
    left = tl.load(taps, mask=own_of_group, other=0)
    right = tl.load(taps + 2, mask=own_of_group, other=0)
    total = spread(left + tl.load(taps + 1, mask=own_of_group, other=0) + right, BLOCK_COLUMNS)
    return (
        total
        - tl.where(last_column, spread(left, BLOCK_COLUMNS), 0)
        - tl.where(first_column, spread(right, BLOCK_COLUMNS), 0)
    )
