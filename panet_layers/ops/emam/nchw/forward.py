"""Forward passes: means, the gated map's moments, the attention map and the output.

Every launcher writes into the tensors it is given. x, grad, out and dx are (B, C, H, W) with C = G * K, strided at
will; the rest is contiguous, in the accumulation's dtype (float32; float64 for float64), with N = B * G instances,
P = H * W pixels, L = H + W (rows first, then columns) and nine taps k = 3 ky + kx.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ...launching import ENOUGH_WARPS
from ...products import rounded_product
from ..tensors import Parameters
from .tiling import (
    LANES,
    constant_term,
    constants,
    instance,
    kernel,
    multiple,
    offsets,
    places,
    plane_block,
    plane_vector,
    row_vector,
    shifted,
    store_windows,
    tiling,
)


def pool(x: Tensor, means: Tensor, windows: Tensor) -> None:
    """means (N, K, L): row and column means of x. windows (N, K, 9): what tap k sees of x, summed, divided by P.

    Tap (ky, kx) sees all rows but the last for ky = 0, all but the first for ky = 2; columns alike.
    """
    batch, channels, height, width = x.shape
    options = constants(x, means) | plane_block(height, width) | {"VECTOR": row_vector(x)}
    _pool[(batch * channels,)](x, means, windows, channels, height, width, *x.stride(), **options, num_warps=1)


@kernel
def _pool(
    x,
    means,
    windows,
    C,
    H,
    W,
    x_sample,
    x_channel,
    x_row,
    x_column,
    ACC: tl.constexpr,
    WIDE: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    pid = tl.program_id(0)
    plane = pid.to(tl.int64)
    W, x_sample, x_channel, x_row = (
        multiple(W, VECTOR),
        multiple(x_sample, VECTOR),
        multiple(x_channel, VECTOR),
        multiple(x_row, VECTOR),
    )
    x += (pid // C).to(tl.int64) * x_sample + (pid % C).to(tl.int64) * x_channel
    means += plane * (H + W)
    per_row, per_column = 1.0 / tl.cast(W, ACC), 1.0 / tl.cast(H, ACC)
    total = tl.zeros([BLOCK_ROWS], ACC)
    for h0 in range(0, H, BLOCK_ROWS):
        h = h0 + tl.arange(0, BLOCK_ROWS)
        rows = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], ACC)
        for w0 in range(0, W, BLOCK_COLUMNS):
            w = w0 + tl.arange(0, BLOCK_COLUMNS)
            inside = (h < H)[:, None] & (w < W)[None, :]
            values = tl.load(x + offsets(h[:, None], w[None, :], x_row, x_column, WIDE), mask=inside, other=0).to(ACC)
            rows += values
            # The columns' sums wait in memory: a register for each would tie the code to the width.
            columns = tl.sum(values, 0)
            if h0 > 0:
                columns += tl.load(means + H + w, mask=w < W, other=0)
                tl.debug_barrier()  # several lanes may read what one of them writes
            tl.store(means + H + w, columns * tl.where(h0 + BLOCK_ROWS >= H, per_column, 1.0), mask=w < W)
            tl.debug_barrier()
        sums = tl.sum(rows, 1)
        total += sums
        tl.store(means + h, sums * per_row, mask=h < H)
    tl.debug_barrier()
    store_windows(x, means, windows + plane * 9, tl.sum(total, 0), H, W, x_row, x_column, ACC, WIDE)


def moments(x: Tensor, gates: Tensor, eps: float, mean: Tensor, rstd: Tensor) -> None:
    """mean, rstd (N, K) of t = x a d over the pixels, rstd = 1 / sqrt(variance + eps); gates (N, K, L)."""
    batch, channels, height, width = x.shape
    options = constants(x, mean) | plane_block(height, width) | {"VECTOR": row_vector(x)}
    arguments = (x, gates, mean, rstd, channels, height, width, *x.stride(), eps)
    _moments[(batch * channels,)](*arguments, **options, num_warps=1)


@kernel
def _moments(
    x,
    gates,
    mean_out,
    rstd_out,
    C,
    H,
    W,
    x_sample,
    x_channel,
    x_row,
    x_column,
    EPS: tl.constexpr,
    ACC: tl.constexpr,
    WIDE: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """Welford's update at each place of the block, then the exact moments of the places together."""
    pid = tl.program_id(0)
    plane = pid.to(tl.int64)
    W, x_sample, x_channel, x_row = (
        multiple(W, VECTOR),
        multiple(x_sample, VECTOR),
        multiple(x_channel, VECTOR),
        multiple(x_row, VECTOR),
    )
    x += (pid // C).to(tl.int64) * x_sample + (pid % C).to(tl.int64) * x_channel
    gates += plane * (H + W)
    i, j = tl.arange(0, BLOCK_ROWS), tl.arange(0, BLOCK_COLUMNS)
    visits_h, visits_w = (H - i + BLOCK_ROWS - 1) // BLOCK_ROWS, (W - j + BLOCK_COLUMNS - 1) // BLOCK_COLUMNS
    mean, squares = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], ACC), tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], ACC)
    for h0 in range(0, H, BLOCK_ROWS):
        h = h0 + i
        a = tl.load(gates + h, mask=h < H, other=0)
        for w0 in range(0, W, BLOCK_COLUMNS):
            w = w0 + j
            inside = (h < H)[:, None] & (w < W)[None, :]
            d = tl.load(gates + H + w, mask=w < W, other=0)
            values = tl.load(x + offsets(h[:, None], w[None, :], x_row, x_column, WIDE), mask=inside, other=0).to(ACC)
            share = 1.0 / (h0 // BLOCK_ROWS * visits_w + w0 // BLOCK_COLUMNS + 1).to(ACC)
            step = values * a[:, None] * d[None, :] - mean
            squares = tl.where(inside, squares + step * step * (1.0 - share)[None, :], squares)
            mean = tl.where(inside, mean + step * share[None, :], mean)
    visits = (visits_h[:, None] * visits_w[None, :]).to(ACC)
    whole = tl.sum(tl.sum(rounded_product(mean, visits), 1), 0) / H / W
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
    cut = tiling(height, width)
    tiles = cut.down * cut.across
    warps = max(1, cut.pixels // (4 * LANES))
    splits = min(-(-ENOUGH_WARPS // (n * tiles * warps)), -(-k // 8))
    share = -(-k // splits)
    partial = gate if splits == 1 else gate.new_empty((n, splits, height * width))
    options = constants(x, gate) | {"BLOCK_K": triton.next_power_of_2(k)}
    shape = (x.shape[1] // k, k, height, width)
    vectors = (q, p, params.beta, params.b3)
    _attention[(n * tiles * splits,)](
        *(x, gates, mean, rstd, *vectors, params.gamma, taps, out, partial),
        *(*shape, *x.stride(), *out.stride(), *cut[1:], splits, share),
        **options,
        BLOCK_PIXELS=cut.pixels,
        SPLIT=splits > 1,
        num_warps=warps,
    )
    if splits > 1:
        blocks, shares = -(-height * width // 128), -(-k // 32)
        grid = (n * blocks * shares,)
        arguments = (x, *vectors, partial, out, gate, *shape, *x.stride(), *out.stride(), splits, blocks, shares)
        _apply[grid](*arguments, **options, VECTOR=plane_vector(x, out), BLOCK_PIXELS=128, CHANNELS=32, num_warps=1)


@kernel
def _attention(
    x,
    gates,
    mean,
    rstd,
    q,
    p,
    beta,
    b3,
    gamma,
    taps,
    out,
    gate,
    G,
    K,
    H,
    W,
    x_sample,
    x_channel,
    x_row,
    x_column,
    out_sample,
    out_channel,
    out_row,
    out_column,
    across,
    down,
    own_h,
    own_w,
    halo_h,
    halo_w,
    splits,
    share,
    ACC: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """A tile of the attention map of an instance: a thread a pixel (or four), along the channels.

    Each pixel gathers its products with all nine taps, so that an element of x is read once; what belongs to the
    neighbours moves to them at the end, which the tile's halo is for.
    """
    pid = tl.program_id(0)
    split, pid = pid % splits, pid // splits
    tile, n = pid % (across * down), pid // (across * down)
    x += instance(n, G, K, x_sample, x_channel)
    out += instance(n, G, K, out_sample, out_channel)
    n = n.to(tl.int64)
    i = tl.arange(0, BLOCK_PIXELS)
    tile_w = own_w + 2 * halo_w
    row, column = i // tile_w - halo_h, i % tile_w - halo_w
    h, w = tile // across * own_h + row, tile % across * own_w + column
    inside = (row < own_h + halo_h) & (h >= 0) & (h < H) & (w >= 0) & (w < W)
    own = inside & (row >= 0) & (row < own_h) & (column >= 0) & (column < own_w)
    at = offsets(h, w, x_row, x_column, WIDE)
    first = split * share
    values_at = x + tl.cast(first, tl.int64) * x_channel + at
    a_at = gates + (n * K + first) * (H + W) + h
    d_at = gates + (n * K + first) * (H + W) + H + w
    q_at, rstd_at, mean_at = q + n * K, rstd + n * K, mean + n * K

    z0, z1, z2 = tl.zeros([BLOCK_PIXELS], ACC), tl.zeros([BLOCK_PIXELS], ACC), tl.zeros([BLOCK_PIXELS], ACC)
    z3, z4, z5 = tl.zeros([BLOCK_PIXELS], ACC), tl.zeros([BLOCK_PIXELS], ACC), tl.zeros([BLOCK_PIXELS], ACC)
    z6, z7, z8 = tl.zeros([BLOCK_PIXELS], ACC), tl.zeros([BLOCK_PIXELS], ACC), tl.zeros([BLOCK_PIXELS], ACC)
    for c in range(first, tl.minimum(first + share, K)):
        values = tl.load(values_at, mask=inside, other=0).to(ACC)
        ad = tl.load(a_at, mask=inside, other=0) * tl.load(d_at, mask=inside, other=0)
        values_at, a_at, d_at = values_at + x_channel, a_at + (H + W), d_at + (H + W)
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
    y = z4
    y += shifted(z0, -1, -1, i, h, w, own, tile_w, H, W, BLOCK_PIXELS)
    y += shifted(z1, -1, 0, i, h, w, own, tile_w, H, W, BLOCK_PIXELS)
    y += shifted(z2, -1, 1, i, h, w, own, tile_w, H, W, BLOCK_PIXELS)
    y += shifted(z3, 0, -1, i, h, w, own, tile_w, H, W, BLOCK_PIXELS)
    y += shifted(z5, 0, 1, i, h, w, own, tile_w, H, W, BLOCK_PIXELS)
    y += shifted(z6, 1, -1, i, h, w, own, tile_w, H, W, BLOCK_PIXELS)
    y += shifted(z7, 1, 0, i, h, w, own, tile_w, H, W, BLOCK_PIXELS)
    y += shifted(z8, 1, 1, i, h, w, own, tile_w, H, W, BLOCK_PIXELS)

    pixel = offsets(h, w, W, 1, WIDE)
    if SPLIT:
        tl.store(gate + (n * splits + split) * H * W + pixel, y, mask=own)
    else:
        value = tl.sigmoid(y + constant_term(q + n * K, p, beta, b3, K, BLOCK_K))
        tl.store(gate + n * H * W + pixel, value, mask=own)
        _scale(x, out, value, at, offsets(h, w, out_row, out_column, WIDE), own, x_channel, out_channel, 0, K, ACC)


@triton.jit
def _scale(x, out, gate, at, to, mask, x_channel, out_channel, start, stop, ACC: tl.constexpr):
    """out = x gate for the channels from `start` to `stop`, four loads under way at a time."""
    x += tl.cast(start, tl.int64) * x_channel + at
    out += tl.cast(start, tl.int64) * out_channel + to
    for c in range(start, stop, 4):
        mask1, mask2, mask3 = mask & (c + 1 < stop), mask & (c + 2 < stop), mask & (c + 3 < stop)
        x1, out1 = x + x_channel, out + out_channel
        x3, out3 = x1 + x_channel + x_channel, out1 + out_channel + out_channel  # 3 * x_channel could pass 2^31
        values0, values1 = tl.load(x, mask=mask, other=0), tl.load(x1, mask=mask1, other=0)
        values2, values3 = tl.load(x1 + x_channel, mask=mask2, other=0), tl.load(x3, mask=mask3, other=0)
        tl.store(out, (values0.to(ACC) * gate).to(out.dtype.element_ty), mask=mask)
        tl.store(out1, (values1.to(ACC) * gate).to(out.dtype.element_ty), mask=mask1)
        tl.store(out1 + out_channel, (values2.to(ACC) * gate).to(out.dtype.element_ty), mask=mask2)
        tl.store(out3, (values3.to(ACC) * gate).to(out.dtype.element_ty), mask=mask3)
        x, out = x3 + x_channel, out3 + out_channel


@kernel
def _apply(
    x,
    q,
    p,
    beta,
    b3,
    partial,
    out,
    gate,
    G,
    K,
    H,
    W,
    x_sample,
    x_channel,
    x_row,
    x_column,
    out_sample,
    out_channel,
    out_row,
    out_column,
    splits,
    blocks,
    shares,
    ACC: tl.constexpr,
    WIDE: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """The attention map from its partial sums, and some channels of x times its sigmoid."""
    pid = tl.program_id(0)
    x_sample, x_channel, out_sample, out_channel = (
        multiple(x_sample, VECTOR),
        multiple(x_channel, VECTOR),
        multiple(out_sample, VECTOR),
        multiple(out_channel, VECTOR),
    )
    pixels = multiple(H * W, VECTOR)
    part, pid = pid % shares, pid // shares
    block, n = pid % blocks, pid // blocks
    x += instance(n, G, K, x_sample, x_channel)
    out += instance(n, G, K, out_sample, out_channel)
    n = n.to(tl.int64)
    pixel = block * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    inside = pixel < pixels
    y = tl.zeros([BLOCK_PIXELS], ACC)
    for split in range(splits):
        y += tl.load(partial + (n * splits + split) * pixels + pixel, mask=inside, other=0)
    value = tl.sigmoid(y + constant_term(q + n * K, p, beta, b3, K, BLOCK_K))
    if part == 0:
        tl.store(gate + n * pixels + pixel, value, mask=inside)
    at, to = places(pixel, W, x_row, x_column, VECTOR, WIDE), places(pixel, W, out_row, out_column, VECTOR, WIDE)
    _scale(
        x,
        out,
        value,
        at,
        to,
        inside,
        x_channel,
        out_channel,
        part * CHANNELS,
        tl.minimum(part * CHANNELS + CHANNELS, K),
        ACC,
    )
