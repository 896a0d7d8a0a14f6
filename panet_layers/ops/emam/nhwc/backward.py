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
    """As `nchw.delta`, but out is `padded`."""
    batch, channels, height, width = x.shape
    groups = gate.shape[0] // batch
    t = tiling(x, channels // groups, grad)
    _delta[(batch * t.programs,)](
        *(x, *strides(x, t.VEC), grad, *strides(grad, t.VEC), gate, out, height, width, *t.blocks, groups),
        *(channels // groups, t.KB, t.GB, t.WB, t.VEC, accumulation(out)),
        num_warps=t.warps,
    )


@triton.jit(do_not_specialize=SIZES)
def _delta(
    x, xb, xh, xw, grad, gb, gh, gw, gate, out, height, width, rows, group_blocks, column_blocks, row_chunks,
    groups: tl.constexpr, K: tl.constexpr, KB: tl.constexpr, GB: tl.constexpr, WB: tl.constexpr, VEC: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    sample, g0, block, chunk, start, end = place(height, rows, group_blocks, column_blocks, row_chunks, GB, WB)
    row = tl.arange(0, WB * GB)
    group = g0 + row % GB
    column = block * WB + row // GB
    position, channel, own, touched = lanes(group, groups, K, KB, VEC)
    x += sample.to(tl.int64) * xb * VEC
    grad += sample.to(tl.int64) * gb * VEC
    inside = tl.minimum(column, width - 1).to(tl.int64)[:, None]
    offset, grad_offset = inside * xw * VEC + position, inside * gw * VEC + position
    instance = sample.to(tl.int64) * groups + group
    gate += instance * (height.to(tl.int64) * width) + column
    pitch = width + 2
    out += instance * padded_size(height, width) + pitch + 1 + column
    at_gate = (column < width) & (group < groups)
    for h in range(start, end):
        tile = tl.load(x + h * xh * VEC + offset, mask=touched).to(ACC)
        of_grad = tl.load(grad + h * gh * VEC + grad_offset, mask=touched).to(ACC)
        tile = rounded_product(tile, of_grad)
        if K != KB:
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
    """As `nchw.input_gradient`; gates are sides, and so are dmeans, as (K, N L) with strides (1, K)."""
    batch, channels, height, width = x.shape
    k = gates.shape[1]
    t = tiling(x, k, grad, dx, numbers=16)
    _input_gradient[(batch * t.programs,)](
        *(x, *strides(x, t.VEC), grad, *strides(grad, t.VEC), dx, *strides(dx, t.VEC)),
        *(gates, gate, delta, coefficients, taps, dmeans, dwindows, height, width, *t.blocks, channels // k),
        *(k, t.KB, t.GB, t.WB, t.VEC, accumulation(gates)),
        num_warps=t.warps,
    )


@triton.jit(do_not_specialize=SIZES)
def _input_gradient(
    x, xb, xh, xw, grad, gb, gh, gw, out, ob, oh, ow, gates, gate, delta, coefficients, taps, dmeans, dwindows,
    height, width, rows, group_blocks, column_blocks, row_chunks,
    groups: tl.constexpr, K: tl.constexpr, KB: tl.constexpr, GB: tl.constexpr, WB: tl.constexpr, VEC: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """A row of dx at a time; the neighbours' delta comes from the cache."""
    sample, g0, block, chunk, start, end = place(height, rows, group_blocks, column_blocks, row_chunks, GB, WB)
    row = tl.arange(0, WB * GB)
    group = g0 + row % GB
    column = block * WB + row // GB
    position, channel, own, touched = lanes(group, groups, K, KB, VEC)
    there = tl.minimum(group, groups - 1) - g0
    in_map = (column < width)[:, None]
    x += sample.to(tl.int64) * xb * VEC
    grad += sample.to(tl.int64) * gb * VEC
    out += sample.to(tl.int64) * ob * VEC
    inside = tl.minimum(column, width - 1).to(tl.int64)[:, None]
    offset, grad_offset = inside * xw * VEC + position, inside * gw * VEC + position
    out_offset = inside * ow * VEC + position

    each = tl.arange(0, GB)
    _, channel_v, own_v, _ = lanes(g0 + each, groups, K, KB, VEC)
    sides = height + width
    instance = sample.to(tl.int64) * groups + g0
    gates += instance * sides * K
    dmeans += instance * sides * K
    side_v = (tl.minimum(each, groups - 1 - g0) * sides * K)[:, None] + channel_v
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
    by_column += spread(left + _three(nine_v + 1, 3, own_v) + right, WB)
    by_column -= tl.where(last_column, spread(left, WB), 0) + tl.where(first_column, spread(right, WB), 0)

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

    gate += (instance + there) * (height.to(tl.int64) * width) + tl.minimum(column, width - 1)
    pitch = width + 2
    delta += (instance + there) * padded_size(height, width) + pitch + 1 + column
    per_row = 1.0 / width.to(ACC)
    for h in range(start, end):
        tile = tl.load(x + h * xh * VEC + offset, mask=touched).to(ACC)
        result = tl.load(grad + h * gh * VEC + grad_offset, mask=touched).to(ACC)
        a = tl.load(gates + h * K + side_v, mask=own_v)
        by_row = tl.load(dmeans + h * K + side_v, mask=own_v) * per_row
        near = delta + h * pitch
        centre = tl.load(near)
        opened = tl.load(gate + h * width)

        result = result * opened[:, None] + by_column + spread(by_row, WB)
        ad = d * spread(a, WB)
        dt = spread(slope, WB) * (ad * tile) + spread(shift, WB)
        dt += spread(kappa, WB) * centre[:, None]
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
            result -= _missed(nine_v + 6, own_v, first_column, last_column, WB)
        if h == height - 1:
            result -= _missed(nine_v, own_v, first_column, last_column, WB)
        pointer = out + h * oh * VEC + out_offset
        store_own(pointer, result.to(out.dtype.element_ty), position, group, own, in_map, K, VEC)


@triton.jit
def _three(pointer, step, mask):
    total = tl.load(pointer, mask=mask, other=0) + tl.load(pointer + step, mask=mask, other=0)
    return total + tl.load(pointer + 2 * step, mask=mask, other=0)


@triton.jit
def _missed(taps, own_v, first_column, last_column, WB: tl.constexpr):
    """The three taps that don't see a border row, less those that don't see the border column either."""
    left = tl.load(taps, mask=own_v, other=0)
    right = tl.load(taps + 2, mask=own_v, other=0)
    total = spread(left + tl.load(taps + 1, mask=own_v, other=0) + right, WB)
    return total - tl.where(last_column, spread(left, WB), 0) - tl.where(first_column, spread(right, WB), 0)
