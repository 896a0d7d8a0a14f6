"""Backward passes: the gradient before the last sigmoid, and that of the input.

Programs and memory are as in `forward`.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ...products import rounded_product
from .tiles import SIZES, elements, in_padded, lanes, padded_size, place, rows_of_tile, spread, store_own, tap
from .tiling import MARGIN, group_tiling, strides


def padded(gate: Tensor, height: int, width: int) -> Tensor:
    """Room for `delta`: (N, (H + 2) (W + 2) + MARGIN), zero; neighbours are then read without asking where one is."""
    return gate.new_zeros(gate.shape[0], (height + 2) * (width + 2) + MARGIN.value)


def delta(grad: Tensor, x: Tensor, gate: Tensor, out: Tensor) -> None:
    """out, `padded` = gate (1 - gate) sum_c grad_c x_c: the gradient before the last sigmoid; gate (N, P)."""
    batch, channels, height, width = x.shape
    t = group_tiling(x, channels * batch // len(gate), grad)
    _delta_kernel[(batch * t.programs,)](
        *(x, *strides(x), grad, *strides(grad), gate, out, height, width, t.rows, t.row_chunks),
        **t.constants,
        num_warps=t.warps,
    )


@triton.jit(do_not_specialize=SIZES)
def _delta_kernel(
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
    blocks: tl.constexpr = (C // K + BLOCK_GROUPS - 1) // BLOCK_GROUPS
    sample, block, column_block, chunk, start, end = place(height, width, rows, row_chunks, blocks, BLOCK_COLUMNS)
    first = column_block * BLOCK_COLUMNS
    lane, group = rows_of_tile(block, BLOCK_GROUPS, BLOCK_COLUMNS)
    position, channel, own, touched = lanes(group, C, K, BLOCK_CHANNELS, VECTOR)
    column = first + lane
    inside = touched & (column < width)[:, None]
    line, offset, step = elements(x, sample, start, first, lane, position, x_sample, x_row, x_column, C, VECTOR, DENSE)
    grad_line, grad_offset, grad_step = elements(
        grad, sample, start, first, lane, position, grad_sample, grad_row, grad_column, C, VECTOR, DENSE
    )
    instance = sample * (C // K) + group
    gate += instance * (height.to(tl.int64) * width) + start.to(tl.int64) * width + column
    out += instance * padded_size(height, width) + (start + 1).to(tl.int64) * (width + 2) + 1 + column
    at_gate = (column < width) & (group < C // K)
    for _ in range(start, end):
        tile = tl.load(line + offset, mask=inside).to(ACC)
        tile = rounded_product(tile, tl.load(grad_line + grad_offset, mask=inside).to(ACC))
        if K != BLOCK_CHANNELS:
            tile = tl.where(own, tile, 0)
        opened = tl.load(gate, mask=at_gate)
        tl.store(out, tl.sum(tile, axis=1) * (opened * (1 - opened)), mask=at_gate)
        line += step
        grad_line += grad_step
        gate += width
        out += width + 2


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

    gates are sides, and so are dmeans, the gradient of the row and column means.
    dwindows (N, 9 K): the gradient of the windows: dx(h, w) gets dwindows[9 c + k] / P of each tap for which
    (h - ky + 1, w - kx + 1) is inside. delta as `delta` writes it, coefficients as `contract` does.
    """
    batch, channels, height, width = x.shape
    t = group_tiling(x, taps.shape[0] // 9, grad, dx, numbers=16)
    _input_gradient_kernel[(batch * t.programs,)](
        *(x, *strides(x), grad, *strides(grad), dx, *strides(dx), gates, gate, delta, coefficients, taps),
        *(dmeans, dwindows, height, width, t.rows, t.row_chunks),
        **t.constants,
        num_warps=t.warps,
    )


@triton.jit(do_not_specialize=SIZES, do_not_specialize_on_alignment=["taps"])  # a row of a matrix: starts anywhere
def _input_gradient_kernel(
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
    """A row of dx at a time; the neighbours' delta comes from the cache."""
    blocks: tl.constexpr = (C // K + BLOCK_GROUPS - 1) // BLOCK_GROUPS
    sample, block, column_block, chunk, start, end = place(height, width, rows, row_chunks, blocks, BLOCK_COLUMNS)
    first = column_block * BLOCK_COLUMNS
    lane, group = rows_of_tile(block, BLOCK_GROUPS, BLOCK_COLUMNS)
    position, channel, own, touched = lanes(group, C, K, BLOCK_CHANNELS, VECTOR)
    column = first + lane
    seen = (column < width)[:, None]
    inside = touched & seen
    line, offset, step = elements(x, sample, start, first, lane, position, x_sample, x_row, x_column, C, VECTOR, DENSE)
    grad_line, grad_offset, grad_step = elements(
        grad, sample, start, first, lane, position, grad_sample, grad_row, grad_column, C, VECTOR, DENSE
    )
    out_line, out_offset, out_step = elements(
        out, sample, start, first, lane, position, out_sample, out_row, out_column, C, VECTOR, DENSE
    )

    each = block * BLOCK_GROUPS + tl.arange(0, BLOCK_GROUPS)
    position_of_group, channel_of_group, own_of_group, touched_of_group = lanes(each, C, K, BLOCK_CHANNELS, VECTOR)
    gates += sample * (height + width) * C
    dmeans += sample * (height + width) * C
    at_column = (height + first).to(tl.int64) * C + (lane.to(tl.int64)[:, None] * C + position)
    d = tl.load(gates + at_column, mask=inside)

    coefficients += sample * 3 * C + position_of_group
    kappa = tl.load(coefficients, mask=touched_of_group)
    shift = tl.load(coefficients + C, mask=touched_of_group)
    slope = tl.load(coefficients + 2 * C, mask=touched_of_group)

    # dx gets each tap of dwindows that sees it: all but three in a border row or column, all but five in a corner.
    nine_of_group = dwindows + (sample * C + each[:, None] * K + channel_of_group) * 9
    first_column, last_column = (column == 0)[:, None], (column == width - 1)[:, None]
    left = _three(nine_of_group, 3, own_of_group)
    right = _three(nine_of_group + 2, 3, own_of_group)
    seen_by = spread(left + _three(nine_of_group + 1, 3, own_of_group) + right, BLOCK_COLUMNS)
    seen_by -= tl.where(last_column, spread(left, BLOCK_COLUMNS), 0)
    seen_by -= tl.where(first_column, spread(right, BLOCK_COLUMNS), 0)
    per_row, per_column = 1.0 / width.to(ACC), 1.0 / height.to(ACC)
    by_column = (tl.load(dmeans + at_column, mask=inside) + seen_by * per_row) * per_column

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

    instance = sample * (C // K) + group
    at_gate = (column < width) & (group < C // K)
    gate += instance * (height.to(tl.int64) * width) + start.to(tl.int64) * width + column
    near, pitch = in_padded(delta, sample, group, start, column, height, width, C // K, BLOCK_GROUPS)
    gates += start.to(tl.int64) * C
    dmeans += start.to(tl.int64) * C
    for h in range(start, end):
        tile = tl.load(line + offset, mask=inside).to(ACC)
        result = tl.load(grad_line + grad_offset, mask=inside).to(ACC)
        a = tl.load(gates + position_of_group, mask=touched_of_group)
        by_row = tl.load(dmeans + position_of_group, mask=touched_of_group) * per_row
        centre = tl.load(near)
        opened = tl.load(gate, mask=at_gate)

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
            missed = _missed(nine_of_group + 6, own_of_group, first_column, last_column, BLOCK_COLUMNS)
            result -= missed * (per_row * per_column)
        if h == height - 1:
            missed = _missed(nine_of_group, own_of_group, first_column, last_column, BLOCK_COLUMNS)
            result -= missed * (per_row * per_column)
        out_pointer = out_line + out_offset
        store_own(out_pointer, result.to(out.dtype.element_ty), position, group, own, seen, K, VECTOR)
        line += step
        grad_line += grad_step
        out_line += out_step
        near += pitch
        gate += width
        gates += C
        dmeans += C


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
