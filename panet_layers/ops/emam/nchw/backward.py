"""Backward passes: the gradient before the last sigmoid, and that of the input. Tensors are as in `forward`."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .tiling import LANES, constants, instance, kernel, multiple, offsets, places, plane_vector


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
        **constants(x, gate, grad),
        VECTOR=plane_vector(x, grad),
        BLOCK_CHANNELS=min(8, triton.next_power_of_2(k)),
        BLOCK_PIXELS=pixels,
        num_warps=4,
    )


@kernel
def _delta(
    grad,
    x,
    gate,
    out,
    G,
    K,
    H,
    W,
    grad_sample,
    grad_channel,
    grad_row,
    grad_column,
    x_sample,
    x_channel,
    x_row,
    x_column,
    blocks,
    ACC: tl.constexpr,
    WIDE: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
):
    pid = tl.program_id(0)
    block, n = pid % blocks, pid // blocks
    grad_sample, grad_channel, x_sample, x_channel = (
        multiple(grad_sample, VECTOR),
        multiple(grad_channel, VECTOR),
        multiple(x_sample, VECTOR),
        multiple(x_channel, VECTOR),
    )
    grad += instance(n, G, K, grad_sample, grad_channel)
    x += instance(n, G, K, x_sample, x_channel)
    n = n.to(tl.int64)
    pixel = block * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    pixels = multiple(H * W, VECTOR)
    inside = pixel < pixels
    c = tl.arange(0, BLOCK_CHANNELS)
    grad_at = (
        grad + c.to(tl.int64)[:, None] * grad_channel + places(pixel, W, grad_row, grad_column, VECTOR, WIDE)[None, :]
    )
    x_at = x + c.to(tl.int64)[:, None] * x_channel + places(pixel, W, x_row, x_column, VECTOR, WIDE)[None, :]
    total = tl.zeros([BLOCK_CHANNELS, BLOCK_PIXELS], ACC)
    for c0 in range(0, K, BLOCK_CHANNELS):
        wanted = (c0 + c < K)[:, None] & inside[None, :]
        total += tl.load(grad_at, mask=wanted, other=0).to(ACC) * tl.load(x_at, mask=wanted, other=0).to(ACC)
        grad_at, x_at = (
            grad_at + tl.cast(grad_channel, tl.int64) * BLOCK_CHANNELS,
            x_at + tl.cast(x_channel, tl.int64) * BLOCK_CHANNELS,
        )
    value = tl.load(gate + n * pixels + pixel, mask=inside, other=0)
    tl.store(out + n * pixels + pixel, value * (1 - value) * tl.sum(total, 0), mask=inside)


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
        **constants(x, gate, grad),
        BLOCK_PIXELS=pixels,
        CHANNELS=16,
        num_warps=1,
    )


@kernel
def _input_gradient(
    grad,
    x,
    gates,
    gate,
    delta,
    coefficients,
    taps,
    dmeans,
    dwindows,
    dx,
    N,
    G,
    K,
    H,
    W,
    grad_sample,
    grad_channel,
    grad_row,
    grad_column,
    x_sample,
    x_channel,
    x_row,
    x_column,
    out_sample,
    out_channel,
    out_row,
    out_column,
    blocks,
    shares,
    ACC: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Some channels of a block of pixels; a thread keeps the nine neighbours of delta for its pixels."""
    pid = tl.program_id(0)
    part, pid = pid % shares, pid // shares
    block, n = pid % blocks, pid // blocks
    grad += instance(n, G, K, grad_sample, grad_channel)
    x += instance(n, G, K, x_sample, x_channel)
    dx += instance(n, G, K, out_sample, out_channel)
    n = n.to(tl.int64)
    pixel = block * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    inside = pixel < H * W
    h, w = pixel // W, pixel % W
    at_g, at_x, at_o = (
        offsets(h, w, grad_row, grad_column, WIDE),
        offsets(h, w, x_row, x_column, WIDE),
        offsets(h, w, out_row, out_column, WIDE),
    )

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
    grad_at, x_at = (
        grad + tl.cast(first, tl.int64) * grad_channel + at_g,
        x + tl.cast(first, tl.int64) * x_channel + at_x,
    )
    dx_at = dx + tl.cast(first, tl.int64) * out_channel + at_o
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
        grad_at, x_at, dx_at = grad_at + grad_channel, x_at + x_channel, dx_at + out_channel
        a_at, d_at, row_at, column_at = a_at + (H + W), d_at + (H + W), row_at + length, column_at + length
