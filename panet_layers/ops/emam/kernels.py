"""EMAM's passes over NCHW maps (any strides) as Triton kernels, and their launchers.

Every launcher writes into the tensors it is given. x, grad, out and dx are (B, C, H, W) with C = G * K, strided at
will; the rest is contiguous, in the accumulation's dtype (float32; float64 for float64), with N = B * G instances,
P = H * W pixels, L = H + W (rows first, then columns) and nine taps k = 3 ky + kx. README.md beside this file has the
passes' shapes and costs.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .chunked import Parameters

ACCUMULATION = {torch.float32: tl.float32, torch.float64: tl.float64}
LANES = 32  # of a warp: the programs that walk along rows are one warp wide
PIXELS = 1024  # at most, of a tile of the attention map
ENOUGH_WARPS = 2048  # to fill a GPU: below, the attention map is made of several programs' partial sums


# --- forward -------------------------------------------------------------------------------------------------------


def pool(x: Tensor, means: Tensor, windows: Tensor) -> None:
    """means (N, K, L): row and column means of x. windows (N, K, 9): what tap k sees of x, summed, divided by P.

    Tap (ky, kx) sees all rows but the last for ky = 0, all but the first for ky = 2; columns alike.
    """
    batch, channels, height, width = x.shape
    options = _constants(x, means) | _plane_block(height, width)
    _pool[(batch * channels,)](x, means, windows, channels, height, width, *x.stride(), **options, num_warps=1)


@triton.jit
def _pool(x, means, windows, C, H, W, sb, sc, sh, sw, ACC: tl.constexpr, WIDE: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr):  # fmt: skip  # noqa: E501
    pid = tl.program_id(0)
    plane = pid.to(tl.int64)
    x += (pid // C).to(tl.int64) * sb + (pid % C).to(tl.int64) * sc
    means += plane * (H + W)
    per_row, per_column = 1.0 / tl.cast(W, ACC), 1.0 / tl.cast(H, ACC)
    total = tl.zeros([BH], ACC)
    for h0 in range(0, H, BH):
        h = h0 + tl.arange(0, BH)
        rows = tl.zeros([BH, BW], ACC)
        for w0 in range(0, W, BW):
            w = w0 + tl.arange(0, BW)
            inside = (h < H)[:, None] & (w < W)[None, :]
            values = tl.load(x + _offsets(h[:, None], w[None, :], sh, sw, WIDE), mask=inside, other=0).to(ACC)
            rows += values
            # The columns' sums wait in memory: a register for each would tie the code to the width.
            columns = tl.sum(values, 0)
            if h0 > 0:
                columns += tl.load(means + H + w, mask=w < W, other=0)
            tl.store(means + H + w, columns * tl.where(h0 + BH >= H, per_column, 1.0), mask=w < W)
            tl.debug_barrier()
        sums = tl.sum(rows, 1)
        total += sums
        tl.store(means + h, sums * per_row, mask=h < H)
    tl.debug_barrier()
    _store_windows(x, means, windows + plane * 9, tl.sum(total, 0), H, W, sh, sw, ACC, WIDE)


@triton.jit
def _store_windows(x, means, windows, total, H, W, sh, sw, ACC: tl.constexpr, WIDE: tl.constexpr):
    """What each tap sees of a plane: total - excluded row - excluded column + their corner."""
    k = tl.arange(0, 16)
    ky, kx = k // 3, k % 3
    h, w = tl.where(ky == 0, H - 1, 0), tl.where(kx == 0, W - 1, 0)
    no_row, no_column = (k < 9) & (ky != 1), (k < 9) & (kx != 1)
    row = tl.load(means + h, mask=no_row, other=0) * W
    column = tl.load(means + H + w, mask=no_column, other=0) * H
    corner = tl.load(x + _offsets(h, w, sh, sw, WIDE), mask=no_row & no_column, other=0).to(ACC)
    tl.store(windows + k, (total - row - column + corner) / H / W, mask=k < 9)


def moments(x: Tensor, gates: Tensor, eps: float, mean: Tensor, rstd: Tensor) -> None:
    """mean, rstd (N, K) of t = x a d over the pixels, rstd = 1 / sqrt(variance + eps); gates (N, K, L)."""
    batch, channels, height, width = x.shape
    options = _constants(x, mean) | _plane_block(height, width)
    arguments = (x, gates, mean, rstd, channels, height, width, *x.stride(), eps)
    _moments[(batch * channels,)](*arguments, **options, num_warps=1)


@triton.jit
def _moments(x, gates, mean_out, rstd_out, C, H, W, sb, sc, sh, sw, EPS: tl.constexpr, ACC: tl.constexpr, WIDE: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr):  # fmt: skip  # noqa: E501
    """Welford's update at each place of the block, then the exact moments of the places together."""
    pid = tl.program_id(0)
    plane = pid.to(tl.int64)
    x += (pid // C).to(tl.int64) * sb + (pid % C).to(tl.int64) * sc
    gates += plane * (H + W)
    i, j = tl.arange(0, BH), tl.arange(0, BW)
    visits_h, visits_w = (H - i + BH - 1) // BH, (W - j + BW - 1) // BW
    mean, squares = tl.zeros([BH, BW], ACC), tl.zeros([BH, BW], ACC)
    for h0 in range(0, H, BH):
        h = h0 + i
        a = tl.load(gates + h, mask=h < H, other=0)
        for w0 in range(0, W, BW):
            w = w0 + j
            inside = (h < H)[:, None] & (w < W)[None, :]
            d = tl.load(gates + H + w, mask=w < W, other=0)
            values = tl.load(x + _offsets(h[:, None], w[None, :], sh, sw, WIDE), mask=inside, other=0).to(ACC)
            share = 1.0 / (h0 // BH * visits_w + w0 // BW + 1).to(ACC)
            step = values * a[:, None] * d[None, :] - mean
            squares = tl.where(inside, squares + step * step * (1.0 - share)[None, :], squares)
            mean = tl.where(inside, mean + step * share[None, :], mean)
    visits = (visits_h[:, None] * visits_w[None, :]).to(ACC)
    whole = tl.sum(tl.sum(mean * visits, 1), 0) / H / W
    away = mean - whole
    variance = tl.sum(tl.sum(squares + away * away * visits, 1), 0) / H / W
    tl.store(mean_out + plane, whole)
    tl.store(rstd_out + plane, 1.0 / tl.sqrt(variance + EPS))


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
    """gate (N, P) = sigmoid(y), out = x gate.

    y = conv(x; taps) + sum_c q_c gamma_c rstd_c (t_c - mean_c) + <q, beta> + <p, b3>, where
    conv(x; taps)(h, w) = sum_c,k taps[9 c + k] x_c(h + ky - 1, w + kx - 1), zero outside; taps (9 K), p (K), q (N, K).
    """
    height, width = x.shape[2:]
    n, k = q.shape
    tiling = _tiling(height, width)
    tiles = tiling.down * tiling.across
    warps = max(1, tiling.pixels // (4 * LANES))
    splits = min(-(-ENOUGH_WARPS // (n * tiles * warps)), -(-k // 8))
    share = -(-k // splits)
    partial = gate if splits == 1 else gate.new_empty((n, splits, height * width))
    options = _constants(x, gate) | {"BLOCK_K": triton.next_power_of_2(k)}
    shape = (x.shape[1] // k, k, height, width)
    vectors = (q, p, params.beta, params.b3)
    _attention[(n * tiles * splits,)](
        *(x, gates, mean, rstd, *vectors, params.gamma, taps, out, partial),
        *(*shape, *x.stride(), *out.stride(), *tiling[1:], splits, share),
        **options,
        BP=tiling.pixels,
        SPLIT=splits > 1,
        num_warps=warps,
    )
    if splits > 1:
        blocks, shares = -(-height * width // 128), -(-k // 32)
        grid = (n * blocks * shares,)
        arguments = (x, *vectors, partial, out, gate, *shape, *x.stride(), *out.stride(), splits, blocks, shares)
        _apply[grid](*arguments, **options, BP=128, CHANNELS=32, num_warps=4)


@triton.jit
def _attention(
    x, gates, mean, rstd, q, p, beta, b3, gamma, taps, out, gate,
    G, K, H, W, sb, sc, sh, sw, ob, oc, oh, ow, across, down, own_h, own_w, halo_h, halo_w, splits, share,
    ACC: tl.constexpr, WIDE: tl.constexpr, BLOCK_K: tl.constexpr, BP: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """A tile of the attention map of an instance: a thread a pixel (or four), along the channels.

    Each pixel gathers its products with all nine taps, so that an element of x is read once; what belongs to the
    neighbours moves to them at the end, which the tile's halo is for.
    """
    pid = tl.program_id(0)
    split, pid = pid % splits, pid // splits
    tile, n = pid % (across * down), pid // (across * down)
    x += _instance(n, G, K, sb, sc)
    out += _instance(n, G, K, ob, oc)
    n = n.to(tl.int64)
    i = tl.arange(0, BP)
    tile_w = own_w + 2 * halo_w
    row, column = i // tile_w - halo_h, i % tile_w - halo_w
    h, w = tile // across * own_h + row, tile % across * own_w + column
    inside = (row < own_h + halo_h) & (h >= 0) & (h < H) & (w >= 0) & (w < W)
    own = inside & (row >= 0) & (row < own_h) & (column >= 0) & (column < own_w)
    at = _offsets(h, w, sh, sw, WIDE)
    first = split * share
    values_at = x + tl.cast(first, tl.int64) * sc + at
    a_at = gates + (n * K + first) * (H + W) + h
    d_at = gates + (n * K + first) * (H + W) + H + w
    q_at, rstd_at, mean_at = q + n * K, rstd + n * K, mean + n * K

    z0, z1, z2 = tl.zeros([BP], ACC), tl.zeros([BP], ACC), tl.zeros([BP], ACC)
    z3, z4, z5 = tl.zeros([BP], ACC), tl.zeros([BP], ACC), tl.zeros([BP], ACC)
    z6, z7, z8 = tl.zeros([BP], ACC), tl.zeros([BP], ACC), tl.zeros([BP], ACC)
    for c in range(first, tl.minimum(first + share, K)):
        values = tl.load(values_at, mask=inside, other=0).to(ACC)
        ad = tl.load(a_at, mask=inside, other=0) * tl.load(d_at, mask=inside, other=0)
        values_at, a_at, d_at = values_at + sc, a_at + (H + W), d_at + (H + W)
        kappa = tl.load(q_at + c) * tl.load(gamma + c) * tl.load(rstd_at + c)
        z0 += tl.load(taps + 9 * c) * values
        z1 += tl.load(taps + 9 * c + 1) * values
        z2 += tl.load(taps + 9 * c + 2) * values
        z3 += tl.load(taps + 9 * c + 3) * values
        z4 += tl.load(taps + 9 * c + 4) * values + kappa * (values * ad - tl.load(mean_at + c))
        z5 += tl.load(taps + 9 * c + 5) * values
        z6 += tl.load(taps + 9 * c + 6) * values
        z7 += tl.load(taps + 9 * c + 7) * values
        z8 += tl.load(taps + 9 * c + 8) * values
    y = z4 + _from(z0, -1, -1, i, h, w, own, tile_w, H, W, BP) + _from(z1, -1, 0, i, h, w, own, tile_w, H, W, BP)
    y += _from(z2, -1, 1, i, h, w, own, tile_w, H, W, BP) + _from(z3, 0, -1, i, h, w, own, tile_w, H, W, BP)
    y += _from(z5, 0, 1, i, h, w, own, tile_w, H, W, BP) + _from(z6, 1, -1, i, h, w, own, tile_w, H, W, BP)
    y += _from(z7, 1, 0, i, h, w, own, tile_w, H, W, BP) + _from(z8, 1, 1, i, h, w, own, tile_w, H, W, BP)

    pixel = _offsets(h, w, W, 1, WIDE)
    if SPLIT:
        tl.store(gate + (n * splits + split) * H * W + pixel, y, mask=own)
    else:
        value = tl.sigmoid(y + _constant(q + n * K, p, beta, b3, K, BLOCK_K))
        tl.store(gate + n * H * W + pixel, value, mask=own)
        _scale(x, out, value, at, _offsets(h, w, oh, ow, WIDE), own, sc, oc, 0, K, ACC)


@triton.jit
def _from(z, dy: tl.constexpr, dx: tl.constexpr, i, h, w, own, tile_w, H, W, BP: tl.constexpr):
    """z of the pixel dy below and dx to the right, zero outside the map."""
    inside = own & (h + dy >= 0) & (h + dy < H) & (w + dx >= 0) & (w + dx < W)
    return tl.where(inside, tl.gather(z, tl.where(inside, i + dy * tile_w + dx, i), 0), 0.0)


@triton.jit
def _constant(q, p, beta, b3, K, BLOCK_K: tl.constexpr):
    c = tl.arange(0, BLOCK_K)
    from_q = tl.load(q + c, mask=c < K, other=0) * tl.load(beta + c, mask=c < K, other=0)
    from_p = tl.load(p + c, mask=c < K, other=0) * tl.load(b3 + c, mask=c < K, other=0)
    return tl.sum(from_q + from_p, 0)


@triton.jit
def _scale(x, out, gate, at, to, mask, sc, oc, start, stop, ACC: tl.constexpr):
    """out = x gate for the channels from `start` to `stop`, four loads under way at a time."""
    for c0 in range(start, stop, 4):
        c = c0 + tl.arange(0, 4)
        wanted = (c < stop)[:, None] & mask[None, :]
        values = tl.load(x + c.to(tl.int64)[:, None] * sc + at[None, :], mask=wanted, other=0).to(ACC)
        result = (values * gate[None, :]).to(out.dtype.element_ty)
        tl.store(out + c.to(tl.int64)[:, None] * oc + to[None, :], result, mask=wanted)


@triton.jit
def _apply(
    x, q, p, beta, b3, partial, out, gate, G, K, H, W, sb, sc, sh, sw, ob, oc, oh, ow, splits, blocks, shares,
    ACC: tl.constexpr, WIDE: tl.constexpr, BLOCK_K: tl.constexpr, BP: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """The attention map from its partial sums, and some channels of x times its sigmoid."""
    pid = tl.program_id(0)
    part, pid = pid % shares, pid // shares
    block, n = pid % blocks, pid // blocks
    x += _instance(n, G, K, sb, sc)
    out += _instance(n, G, K, ob, oc)
    n = n.to(tl.int64)
    pixel = block * BP + tl.arange(0, BP)
    inside = pixel < H * W
    y = tl.zeros([BP], ACC)
    for split in range(splits):
        y += tl.load(partial + (n * splits + split) * H * W + pixel, mask=inside, other=0)
    value = tl.sigmoid(y + _constant(q + n * K, p, beta, b3, K, BLOCK_K))
    if part == 0:
        tl.store(gate + n * H * W + pixel, value, mask=inside)
    at, to = _offsets(pixel // W, pixel % W, sh, sw, WIDE), _offsets(pixel // W, pixel % W, oh, ow, WIDE)
    _scale(x, out, value, at, to, inside, sc, oc, part * CHANNELS, tl.minimum(part * CHANNELS + CHANNELS, K), ACC)


# --- backward ------------------------------------------------------------------------------------------------------


def delta(grad: Tensor, x: Tensor, gate: Tensor, out: Tensor) -> None:
    """out (N, P) = gate (1 - gate) sum_c grad_c x_c: the gradient before the last sigmoid."""
    height, width = x.shape[2:]
    n = gate.shape[0]
    groups = n // x.shape[0]
    k = x.shape[1] // groups
    pixels = min(128, triton.next_power_of_2(height * width))
    blocks = -(-height * width // pixels)
    _delta[(n * blocks,)](
        *(grad, x, gate, out, groups, k, height, width, *grad.stride(), *x.stride(), blocks),
        **_constants(x, gate, grad),
        BC=min(8, triton.next_power_of_2(k)),
        BP=pixels,
        num_warps=4,
    )


@triton.jit
def _delta(
    grad, x, gate, out, G, K, H, W, gb, gc, gh, gw, sb, sc, sh, sw, blocks,
    ACC: tl.constexpr, WIDE: tl.constexpr, BC: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    block, n = pid % blocks, pid // blocks
    grad += _instance(n, G, K, gb, gc)
    x += _instance(n, G, K, sb, sc)
    n = n.to(tl.int64)
    pixel = block * BP + tl.arange(0, BP)
    h, w, inside = pixel // W, pixel % W, pixel < H * W
    c = tl.arange(0, BC)
    grad_at = grad + c.to(tl.int64)[:, None] * gc + _offsets(h, w, gh, gw, WIDE)[None, :]
    x_at = x + c.to(tl.int64)[:, None] * sc + _offsets(h, w, sh, sw, WIDE)[None, :]
    total = tl.zeros([BC, BP], ACC)
    for c0 in range(0, K, BC):
        wanted = (c0 + c < K)[:, None] & inside[None, :]
        total += tl.load(grad_at, mask=wanted, other=0).to(ACC) * tl.load(x_at, mask=wanted, other=0).to(ACC)
        grad_at, x_at = grad_at + tl.cast(gc, tl.int64) * BC, x_at + tl.cast(sc, tl.int64) * BC
    value = tl.load(gate + n * H * W + pixel, mask=inside, other=0)
    tl.store(out + n * H * W + pixel, value * (1 - value) * tl.sum(total, 0), mask=inside)


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
    """All sums over pixels that the gradients need, per instance n and channel c.

    With D = sum_p delta, hh = rstd sum_p (t - mean) delta, kappa = q gamma rstd, slope = -kappa rstd hh / P,
    offset = -kappa D / P - slope mean and dt = kappa delta + offset + slope t:

    dpre (K, N, L), mind the order: the gradient before the gates' sigmoid, (1 - a) sum_w t dt and (1 - d) sum_h t dt.
    windows (N, K, 9): as `pool` has them.
    coefficients (N, 3, K): kappa, offset, slope.
    sums (N, 13 K): gamma hh + beta D | q hh | q D | dpre summed over L | E (K, 9),
    E[c, k] = sum_hw x_c(h, w) delta(h - ky + 1, w - kx + 1), zero outside.
    """
    height, width = x.shape[2:]
    n, k = q.shape
    shape = (x.shape[1] // k, k, height, width)
    columns = min(LANES, max(4, triton.next_power_of_2(width)))
    channels = min(4 * LANES // columns, triton.next_power_of_2(k))
    strips, blocks = -(-width // columns), -(-k // channels)
    # Of t delta, t and t (t - mean): the rows' sums, strip by strip, and the columns'.
    sides = q.new_empty((n * k, 3, strips * height + width))
    scalars = q.new_empty((n * k, strips, 16))
    _contract[(n * blocks * strips,)](
        *(x, gates, mean, delta, sides, scalars, *shape, *x.stride(), blocks, strips),
        **_constants(x, q),
        BC=channels,
        BW=columns,
        num_warps=1,
    )
    _finish[(n * k,)](
        *(x, means, gates, mean, rstd, q, params.gamma, params.beta, sides, scalars),
        *(dpre, windows, coefficients, sums, n, *shape, *x.stride(), strips),
        **_constants(x, q),
        BL=min(64, max(16, triton.next_power_of_2(max(height, width)))),
        num_warps=1,
    )


@triton.jit
def _contract(
    x, gates, mean, delta, sides, scalars, G, K, H, W, sb, sc, sh, sw, blocks, strips,
    ACC: tl.constexpr, WIDE: tl.constexpr, BC: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """A strip of BW columns of some channels of an instance, row by row; three rows of delta stay in registers."""
    pid = tl.program_id(0)
    strip, pid = pid % strips, pid // strips
    block, n = pid % blocks, pid // blocks
    x += _instance(n, G, K, sb, sc)
    n = n.to(tl.int64)
    c, w = block * BC + tl.arange(0, BC), strip * BW + tl.arange(0, BW)
    real, inside = c < K, w < W
    here = real[:, None] & inside[None, :]
    plane = n * K + c
    at = c.to(tl.int64)[:, None] * sc + _offsets(0, w, sh, sw, WIDE)[None, :]
    d = tl.load(gates + (plane * (H + W) + H)[:, None] + w[None, :], mask=here, other=0)
    mu = tl.load(mean + plane, mask=real, other=0)[:, None]
    delta += n * H * W
    left, right = inside & (w > 0), w < W - 1

    e0, e1, e2 = tl.zeros([BC, BW], ACC), tl.zeros([BC, BW], ACC), tl.zeros([BC, BW], ACC)
    e3, e4, e5 = tl.zeros([BC, BW], ACC), tl.zeros([BC, BW], ACC), tl.zeros([BC, BW], ACC)
    e6, e7, e8 = tl.zeros([BC, BW], ACC), tl.zeros([BC, BW], ACC), tl.zeros([BC, BW], ACC)
    by_delta, alone, squared = tl.zeros([BC, BW], ACC), tl.zeros([BC, BW], ACC), tl.zeros([BC, BW], ACC)
    sum_delta = tl.zeros([BW], ACC)
    above_l, above, above_r = tl.zeros([BW], ACC), tl.zeros([BW], ACC), tl.zeros([BW], ACC)
    mid_l, mid = tl.load(delta + w - 1, mask=left, other=0), tl.load(delta + w, mask=inside, other=0)
    mid_r = tl.load(delta + w + 1, mask=right, other=0)
    sides += plane * 3 * (strips * H + W)
    for h in range(H):
        values = tl.load(x + at + _offsets(h, 0, sh, sw, WIDE), mask=here, other=0).to(ACC)
        a = tl.load(gates + plane * (H + W) + h, mask=real, other=0)
        row = delta + _offsets(h + 1, 0, W, 1, WIDE) + w
        more = h + 1 < H
        below_l, below = tl.load(row - 1, mask=left & more, other=0), tl.load(row, mask=inside & more, other=0)
        below_r = tl.load(row + 1, mask=right & more, other=0)
        e0 += values * below_r[None, :]
        e1 += values * below[None, :]
        e2 += values * below_l[None, :]
        e3 += values * mid_r[None, :]
        e4 += values * mid[None, :]
        e5 += values * mid_l[None, :]
        e6 += values * above_r[None, :]
        e7 += values * above[None, :]
        e8 += values * above_l[None, :]
        t = values * a[:, None] * d
        t_delta, t_squared = t * mid[None, :], tl.where(here, t * (t - mu), 0)
        by_delta += t_delta
        alone += t
        squared += t_squared
        sum_delta += mid
        at_row = sides + strip * H + h
        tl.store(at_row, tl.sum(t_delta, 1), mask=real)
        tl.store(at_row + (strips * H + W), tl.sum(t, 1), mask=real)
        tl.store(at_row + 2 * (strips * H + W), tl.sum(t_squared, 1), mask=real)
        above_l, above, above_r = mid_l, mid, mid_r
        mid_l, mid, mid_r = below_l, below, below_r
    at_column = (sides + strips * H)[:, None] + w[None, :]
    tl.store(at_column, by_delta, mask=here)
    tl.store(at_column + (strips * H + W), alone, mask=here)
    tl.store(at_column + 2 * (strips * H + W), squared, mask=here)
    scalars += (plane * strips + strip) * 16
    tl.store(scalars, tl.sum(e0, 1), mask=real)
    tl.store(scalars + 1, tl.sum(e1, 1), mask=real)
    tl.store(scalars + 2, tl.sum(e2, 1), mask=real)
    tl.store(scalars + 3, tl.sum(e3, 1), mask=real)
    tl.store(scalars + 4, tl.sum(e4, 1), mask=real)
    tl.store(scalars + 5, tl.sum(e5, 1), mask=real)
    tl.store(scalars + 6, tl.sum(e6, 1), mask=real)
    tl.store(scalars + 7, tl.sum(e7, 1), mask=real)
    tl.store(scalars + 8, tl.sum(e8, 1), mask=real)
    tl.store(scalars + 9, tl.sum(by_delta, 1), mask=real)
    tl.store(scalars + 10, tl.zeros([BC], ACC) + tl.sum(sum_delta, 0), mask=real)


@triton.jit
def _finish(
    x, means, gates, mean, rstd, q, gamma, beta, sides, scalars, dpre, windows, coefficients, sums,
    N, G, K, H, W, sb, sc, sh, sw, strips,
    ACC: tl.constexpr, WIDE: tl.constexpr, BL: tl.constexpr,
):  # fmt: skip
    """From the strips' sums of a plane to everything that `contract` promises."""
    pid = tl.program_id(0)
    plane, n, c = pid.to(tl.int64), pid // K, (pid % K).to(tl.int64)
    x += _instance(n, G, K, sb, sc) + c * sc
    n = n.to(tl.int64)
    means += plane * (H + W)
    gates += plane * (H + W)
    mu, scale, weight = tl.load(mean + plane), tl.load(rstd + plane), tl.load(q + plane)
    k = tl.arange(0, 16)
    e, t_delta, d = tl.zeros([16], ACC), tl.cast(0, ACC), tl.cast(0, ACC)
    for strip in range(strips):
        at = scalars + (plane * strips + strip) * 16
        e += tl.load(at + k, mask=k < 9, other=0)
        t_delta += tl.load(at + 9)
        d += tl.load(at + 10)
    hh = scale * (t_delta - mu * d)
    kappa = weight * tl.load(gamma + c) * scale
    mean_delta, slope = d / H / W, -kappa * scale * hh / H / W

    length = strips * H + W
    sides += plane * 3 * length
    out = dpre + (c * N + n) * (H + W)
    total, of_x = tl.zeros([BL], ACC), tl.zeros([BL], ACC)
    for start in range(0, H, BL):
        h = start + tl.arange(0, BL)
        psi = tl.zeros([BL], ACC)
        for strip in range(strips):
            psi += _psi(sides + strip * H + h, length, h < H, kappa, mean_delta, slope)
        value = psi * (1 - tl.load(gates + h, mask=h < H, other=1))
        tl.store(out + h, value, mask=h < H)
        total += value
        of_x += tl.load(means + h, mask=h < H, other=0)
    for start in range(0, W, BL):
        w = start + tl.arange(0, BL)
        psi = _psi(sides + strips * H + w, length, w < W, kappa, mean_delta, slope)
        value = psi * (1 - tl.load(gates + H + w, mask=w < W, other=1))
        tl.store(out + H + w, value, mask=w < W)
        total += value

    _store_windows(x, means, windows + plane * 9, tl.sum(of_x, 0) * W, H, W, sh, sw, ACC, WIDE)
    coefficients += n * 3 * K + c
    tl.store(coefficients, kappa)
    tl.store(coefficients + K, -kappa * mean_delta - slope * mu)
    tl.store(coefficients + 2 * K, slope)
    sums += n * 13 * K
    tl.store(sums + c, tl.load(gamma + c) * hh + tl.load(beta + c) * d)
    tl.store(sums + K + c, weight * hh)
    tl.store(sums + 2 * K + c, weight * d)
    tl.store(sums + 3 * K + c, tl.sum(total, 0))
    tl.store(sums + 4 * K + 9 * c + k, e, mask=k < 9)


@triton.jit
def _psi(at, length, mask, kappa, mean_delta, slope):
    """The sum of t dt along a side, from those of t delta, t and t (t - mean)."""
    t_delta, t = tl.load(at, mask=mask, other=0), tl.load(at + length, mask=mask, other=0)
    return kappa * (t_delta - mean_delta * t) + slope * tl.load(at + 2 * length, mask=mask, other=0)


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

    dmeans (K, N * L), mind the order: the gradient of the row and column means. dwindows (N, 9 K): the gradient of the
    window sums (not means): dx(h, w) gets dwindows[9 c + k] of each tap for which (h - ky + 1, w - kx + 1) is inside.
    """
    height, width = x.shape[2:]
    n, _, k = coefficients.shape
    pixels = min(4 * LANES, max(LANES, triton.next_power_of_2(height * width)))
    blocks, shares = -(-height * width // pixels), -(-k // 16)
    _input_gradient[(n * blocks * shares,)](
        *(grad, x, gates, gate, delta, coefficients, taps, dmeans, dwindows, dx),
        *(n, x.shape[1] // k, k, height, width, *grad.stride(), *x.stride(), *dx.stride(), blocks, shares),
        **_constants(x, gate, grad),
        BP=pixels,
        CHANNELS=16,
        num_warps=1,
    )


@triton.jit
def _input_gradient(
    grad, x, gates, gate, delta, coefficients, taps, dmeans, dwindows, dx,
    N, G, K, H, W, gb, gc, gh, gw, sb, sc, sh, sw, ob, oc, oh, ow, blocks, shares,
    ACC: tl.constexpr, WIDE: tl.constexpr, BP: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Some channels of a block of pixels; a thread keeps the nine neighbours of delta for its pixels."""
    pid = tl.program_id(0)
    part, pid = pid % shares, pid // shares
    block, n = pid % blocks, pid // blocks
    grad += _instance(n, G, K, gb, gc)
    x += _instance(n, G, K, sb, sc)
    dx += _instance(n, G, K, ob, oc)
    n = n.to(tl.int64)
    pixel = block * BP + tl.arange(0, BP)
    inside = pixel < H * W
    h, w = pixel // W, pixel % W
    at_g, at_x, at_o = _offsets(h, w, gh, gw, WIDE), _offsets(h, w, sh, sw, WIDE), _offsets(h, w, oh, ow, WIDE)

    up, down, left, right = inside & (h > 0), inside & (h < H - 1), inside & (w > 0), inside & (w < W - 1)
    delta += n * H * W + pixel
    d0 = tl.load(delta + W + 1, mask=down & right, other=0)
    d1 = tl.load(delta + W, mask=down, other=0)
    d2 = tl.load(delta + W - 1, mask=down & left, other=0)
    d3 = tl.load(delta + 1, mask=right, other=0)
    d4 = tl.load(delta, mask=inside, other=0)
    d5 = tl.load(delta - 1, mask=left, other=0)
    d6 = tl.load(delta - W + 1, mask=up & right, other=0)
    d7 = tl.load(delta - W, mask=up, other=0)
    d8 = tl.load(delta - W - 1, mask=up & left, other=0)
    value = tl.load(gate + n * H * W + pixel, mask=inside, other=0)

    above, below = up.to(ACC), down.to(ACC)
    before, after = left.to(ACC), right.to(ACC)
    per_row, per_column = 1.0 / tl.cast(W, ACC), 1.0 / tl.cast(H, ACC)
    first = part * CHANNELS
    grad_at, x_at = grad + tl.cast(first, tl.int64) * gc + at_g, x + tl.cast(first, tl.int64) * sc + at_x
    dx_at = dx + tl.cast(first, tl.int64) * oc + at_o
    sides = (n * K + first) * (H + W)
    a_at, d_at = gates + sides + h, gates + sides + H + w
    sides = (tl.cast(first, tl.int64) * N + n) * (H + W)
    row_at, column_at = dmeans + sides + h, dmeans + sides + H + w
    length = tl.cast(N, tl.int64) * (H + W)
    coefficients += n * 3 * K
    dwindows += n * 9 * K
    for c in range(first, tl.minimum(first + CHANNELS, K)):
        of_grad = tl.load(grad_at, mask=inside, other=0).to(ACC)
        of_x = tl.load(x_at, mask=inside, other=0).to(ACC)
        ad = tl.load(a_at, mask=inside, other=0) * tl.load(d_at, mask=inside, other=0)
        result = tl.load(row_at, mask=inside, other=0) * per_row
        result += tl.load(column_at, mask=inside, other=0) * per_column
        kappa, offset = tl.load(coefficients + c), tl.load(coefficients + K + c)
        slope = tl.load(coefficients + 2 * K + c)
        result += ad * (kappa * d4 + (offset + slope * (of_x * ad))) + of_grad * value

        at = dwindows + 9 * c
        result += tl.load(at + 4) + after * tl.load(at + 3) + before * tl.load(at + 5)
        result += below * (tl.load(at + 1) + after * tl.load(at) + before * tl.load(at + 2))
        result += above * (tl.load(at + 7) + after * tl.load(at + 6) + before * tl.load(at + 8))
        at = taps + 9 * c
        result += tl.load(at) * d0 + tl.load(at + 1) * d1 + tl.load(at + 2) * d2
        result += tl.load(at + 3) * d3 + tl.load(at + 4) * d4 + tl.load(at + 5) * d5
        result += tl.load(at + 6) * d6 + tl.load(at + 7) * d7 + tl.load(at + 8) * d8
        tl.store(dx_at, result.to(dx.dtype.element_ty), mask=inside)
        grad_at, x_at, dx_at = grad_at + gc, x_at + sc, dx_at + oc
        a_at, d_at, row_at, column_at = a_at + (H + W), d_at + (H + W), row_at + length, column_at + length


# --- shapes of the programs ----------------------------------------------------------------------------------------


@triton.jit
def _instance(n, G, K, sb, sc):
    """Where instance n begins. Divided in 32 bits, in which it is cheap; multiplied in 64."""
    return (n // G).to(tl.int64) * sb + (n % G * K).to(tl.int64) * sc


@triton.jit
def _offsets(h, w, sh, sw, WIDE: tl.constexpr):
    """h sh + w sw, in 64 bits where a plane may span more than 2^31 elements."""
    if WIDE:
        return tl.cast(h, tl.int64) * sh + tl.cast(w, tl.int64) * sw
    return h * sh + w * sw


def _constants(x: Tensor, small: Tensor, *others: Tensor) -> dict[str, object]:
    """What every kernel is compiled for: the accumulation's dtype and whether a plane needs 64-bit offsets."""
    height, width = x.shape[2:]
    spans = ((height - 1) * t.stride(2) + (width - 1) * t.stride(3) for t in (x, *others))
    wide = max(height * width, *spans) >= 2**31 - 4096
    return {"ACC": ACCUMULATION[small.dtype], "WIDE": wide}


def _plane_block(height: int, width: int) -> dict[str, int]:
    """Rows and columns that a one-warp program takes at a time: the best of 16, 8 and 4 rows."""
    candidates = [min(size, triton.next_power_of_2(height)) for size in (16, 8, 4)]
    # A step costs about as much as five rows, beside its rows.
    rows = min(candidates, key=lambda size: -(-height // size) * (size + 5))
    return {"BH": rows, "BW": min(LANES, triton.next_power_of_2(width))}


class Tiling(NamedTuple):
    """How an attention map is cut: into `down` times `across` tiles, with a halo where a tile has neighbours."""

    pixels: int  # of the padded tile, a power of two
    across: int
    down: int
    own_h: int
    own_w: int
    halo_h: int
    halo_w: int


@lru_cache(maxsize=256)
def _tiling(height: int, width: int) -> Tiling:
    """The cut into the fewest tiles of at most PIXELS, halo included."""
    if height * width <= PIXELS:
        return Tiling(max(LANES, triton.next_power_of_2(height * width)), 1, 1, height, width, 0, 0)
    cuts = []
    for across in range(1, 1 + -(-width // 16)):
        own_w, halo_w = -(-width // across), int(across > 1)
        rows = PIXELS // (own_w + 2 * halo_w)
        halo_h = int(rows < height)
        if rows > 2 * halo_h:
            down = -(-height // (rows - 2 * halo_h))
            cuts.append(Tiling(PIXELS, across, down, -(-height // down), own_w, halo_h, halo_w))
    return min(cuts, key=lambda cut: (cut.across * cut.down, cut.across))
