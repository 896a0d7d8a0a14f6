"""The backward's sums over pixels. Tensors are as in `forward`."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ...products import rounded_product
from ..tensors import Parameters
from .tiling import LANES, constants, instance, kernel, multiple, offsets, row_vector, store_windows


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
    offset = -kappa D / P - slope mean and dt = kappa delta + offset + slope t, of which two sums are kept:
    t dt = kappa t (delta - D / P) + slope t (t - mean), and hh = rstd sum_p t (delta - D / P).

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
    total = delta.sum(1)
    # Of t (delta - D / P) and t (t - mean): the rows' sums, strip by strip, and the columns'.
    sides = q.new_empty((n * k, 2, strips * height + width))
    scalars = q.new_empty((n * k, strips, 16))
    _contract[(n * blocks * strips,)](
        *(x, gates, mean, delta, total, sides, scalars, *shape, *x.stride(), blocks, strips),
        **constants(x, q),
        VECTOR=row_vector(x),
        BLOCK_CHANNELS=channels,
        BLOCK_COLUMNS=columns,
        num_warps=1,
    )
    _finish[(n * k,)](
        *(x, means, gates, mean, rstd, q, params.gamma, params.beta, total, sides, scalars),
        *(dpre, windows, coefficients, sums, n, *shape, *x.stride(), strips),
        **constants(x, q),
        BLOCK_SIDES=min(64, max(16, triton.next_power_of_2(max(height, width)))),
        num_warps=1,
    )


@kernel
def _contract(
    x,
    gates,
    mean,
    delta,
    total,
    sides,
    scalars,
    G,
    K,
    H,
    W,
    x_sample,
    x_channel,
    x_row,
    x_column,
    blocks,
    strips,
    ACC: tl.constexpr,
    WIDE: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """A strip of columns of some channels of an instance, row by row; three rows of delta stay in registers."""
    pid = tl.program_id(0)
    W, x_sample, x_channel, x_row = (
        multiple(W, VECTOR),
        multiple(x_sample, VECTOR),
        multiple(x_channel, VECTOR),
        multiple(x_row, VECTOR),
    )
    strip, pid = pid % strips, pid // strips
    block, n = pid % blocks, pid // blocks
    x += instance(n, G, K, x_sample, x_channel)
    n = n.to(tl.int64)
    c, w = block * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS), strip * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    real, inside = c < K, w < W
    here = real[:, None] & inside[None, :]
    plane = n * K + c
    at = c.to(tl.int64)[:, None] * x_channel + offsets(0, w, x_row, x_column, WIDE)[None, :]
    d = tl.load(gates + (plane * (H + W) + H)[:, None] + w[None, :], mask=here, other=0)
    mu = tl.load(mean + plane, mask=real, other=0)[:, None]
    level = tl.load(total + n) / H / W
    delta += n * H * W
    left, right = inside & (w > 0), w < W - 1

    e0, e1, e2 = (
        tl.zeros([BLOCK_CHANNELS, BLOCK_COLUMNS], ACC),
        tl.zeros([BLOCK_CHANNELS, BLOCK_COLUMNS], ACC),
        tl.zeros([BLOCK_CHANNELS, BLOCK_COLUMNS], ACC),
    )
    e3, e4, e5 = (
        tl.zeros([BLOCK_CHANNELS, BLOCK_COLUMNS], ACC),
        tl.zeros([BLOCK_CHANNELS, BLOCK_COLUMNS], ACC),
        tl.zeros([BLOCK_CHANNELS, BLOCK_COLUMNS], ACC),
    )
    e6, e7, e8 = (
        tl.zeros([BLOCK_CHANNELS, BLOCK_COLUMNS], ACC),
        tl.zeros([BLOCK_CHANNELS, BLOCK_COLUMNS], ACC),
        tl.zeros([BLOCK_CHANNELS, BLOCK_COLUMNS], ACC),
    )
    by_delta, by_t = tl.zeros([BLOCK_CHANNELS, BLOCK_COLUMNS], ACC), tl.zeros([BLOCK_CHANNELS, BLOCK_COLUMNS], ACC)
    above_l, above, above_r = (
        tl.zeros([BLOCK_COLUMNS], ACC),
        tl.zeros([BLOCK_COLUMNS], ACC),
        tl.zeros([BLOCK_COLUMNS], ACC),
    )
    mid_l, mid = tl.load(delta + w - 1, mask=left, other=0), tl.load(delta + w, mask=inside, other=0)
    mid_r = tl.load(delta + w + 1, mask=right, other=0)
    sides += plane * 2 * (strips * H + W)
    for h in range(H):
        values = tl.load(x + at + offsets(h, 0, x_row, x_column, WIDE), mask=here, other=0).to(ACC)
        a = tl.load(gates + plane * (H + W) + h, mask=real, other=0)
        row = delta + offsets(h + 1, 0, W, 1, WIDE) + w
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
        of_delta, of_t = rounded_product(t, (mid - level)[None, :]), tl.where(here, t * (t - mu), 0)
        by_delta += of_delta
        by_t += of_t
        at_row = sides + strip * H + h
        tl.store(at_row, tl.sum(of_delta, 1), mask=real)
        tl.store(at_row + (strips * H + W), tl.sum(of_t, 1), mask=real)
        above_l, above, above_r = mid_l, mid, mid_r
        mid_l, mid, mid_r = below_l, below, below_r
    at_column = (sides + strips * H)[:, None] + w[None, :]
    tl.store(at_column, by_delta, mask=here)
    tl.store(at_column + (strips * H + W), by_t, mask=here)
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


@kernel
def _finish(
    x,
    means,
    gates,
    mean,
    rstd,
    q,
    gamma,
    beta,
    total,
    sides,
    scalars,
    dpre,
    windows,
    coefficients,
    sums,
    N,
    G,
    K,
    H,
    W,
    x_sample,
    x_channel,
    x_row,
    x_column,
    strips,
    ACC: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_SIDES: tl.constexpr,
):
    """From the strips' sums of a plane to everything that `contract` promises."""
    pid = tl.program_id(0)
    plane, n, c = pid.to(tl.int64), pid // K, (pid % K).to(tl.int64)
    x += instance(n, G, K, x_sample, x_channel) + c * x_channel
    n = n.to(tl.int64)
    means += plane * (H + W)
    gates += plane * (H + W)
    mu, scale, weight = tl.load(mean + plane), tl.load(rstd + plane), tl.load(q + plane)
    k = tl.arange(0, 16)
    e, of_delta, d = tl.zeros([16], ACC), tl.cast(0, ACC), tl.load(total + n)
    for strip in range(strips):
        at = scalars + (plane * strips + strip) * 16
        e += tl.load(at + k, mask=k < 9, other=0)
        of_delta += tl.load(at + 9)
    hh = scale * of_delta
    kappa = weight * tl.load(gamma + c) * scale
    slope = -kappa * scale * hh / H / W

    length = strips * H + W
    sides += plane * 2 * length
    out = dpre + (c * N + n) * (H + W)
    total, of_x = tl.zeros([BLOCK_SIDES], ACC), tl.zeros([BLOCK_SIDES], ACC)
    for start in range(0, H, BLOCK_SIDES):
        h = start + tl.arange(0, BLOCK_SIDES)
        psi = tl.zeros([BLOCK_SIDES], ACC)
        for strip in range(strips):
            psi += _psi(sides + strip * H + h, length, h < H, kappa, slope)
        value = psi * (1 - tl.load(gates + h, mask=h < H, other=1))
        tl.store(out + h, value, mask=h < H)
        total += value
        of_x += tl.load(means + h, mask=h < H, other=0)
    for start in range(0, W, BLOCK_SIDES):
        w = start + tl.arange(0, BLOCK_SIDES)
        psi = _psi(sides + strips * H + w, length, w < W, kappa, slope)
        value = psi * (1 - tl.load(gates + H + w, mask=w < W, other=1))
        tl.store(out + H + w, value, mask=w < W)
        total += value

    store_windows(x, means, windows + plane * 9, tl.sum(of_x, 0) * W, H, W, x_row, x_column, ACC, WIDE)
    coefficients += n * 3 * K + c
    tl.store(coefficients, kappa)
    tl.store(coefficients + K, -kappa * d / H / W - slope * mu)
    tl.store(coefficients + 2 * K, slope)
    sums += n * 13 * K
    tl.store(sums + c, tl.load(gamma + c) * hh + tl.load(beta + c) * d)
    tl.store(sums + K + c, weight * hh)
    tl.store(sums + 2 * K + c, weight * d)
    tl.store(sums + 3 * K + c, tl.sum(total, 0))
    tl.store(sums + 4 * K + 9 * c + k, e, mask=k < 9)


@triton.jit
def _psi(at, length, mask, kappa, slope):
    """The sum of t dt along a side, from those of t (delta - D / P) and t (t - mean)."""
    return kappa * tl.load(at, mask=mask, other=0) + slope * tl.load(at + length, mask=mask, other=0)
