"""The forward of instances that fit on the chip: moments, attention map and output from one read of x."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...products import rounded_product
from ..tensors import Parameters
from .tiling import constant_term, constants, instance, kernel, offsets, shifted

# Triton 3.6 lays a tile's lanes along the channels: 1376 bytes a thread spill, of two to three times the instructions.
COMPILES_WELL = tuple(int(part) for part in triton.__version__.split(".")[:2]) >= (3, 8)
ON_CHIP_BYTES = 32 << 10  # of a tile in the accumulation's dtype: 32 registers a thread of eight warps


def fits(channels: int, pixels: int, dtype: torch.dtype) -> bool:
    """Whether one program holds an instance in registers: both sides padded to powers of two, in accumulation's dtype.

    A tile has at least 16 pixels, what a reduction over channels and a gather among pixels ask for. Nothing fits where
    this version of Triton does not compile it well.
    """
    return COMPILES_WELL and _padded(channels) * _padded(pixels, 16) * dtype.itemsize <= ON_CHIP_BYTES


def _padded(size: int, at_least: int = 1) -> int:
    return max(at_least, triton.next_power_of_2(size))


def attend_whole(
    x: Tensor,
    gates: Tensor,
    eps: float,
    mean: Tensor,
    rstd: Tensor,
    q: Tensor,
    p: Tensor,
    taps: Tensor,
    params: Parameters,
    out: Tensor,
    gate: Tensor,
) -> None:
    """`moments` and `attend` in one, for what `fits`."""
    height, width = x.shape[2:]
    n, k = q.shape
    block_k, block_p = _padded(k), _padded(height * width, 16)
    _attend_whole[(n,)](
        *(x, gates, mean, rstd, q, p, params.beta, params.b3, params.gamma, taps, out, gate),
        *(x.shape[1] // k, k, height, width, *x.stride(), *out.stride(), eps),
        **constants(x, gate, out),
        BLOCK_K=block_k,
        BLOCK_PIXELS=block_p,
        num_warps=min(8, max(1, block_k * block_p // 512)),
    )


@kernel
def _attend_whole(
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
    EPS: tl.constexpr,
    ACC: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
):
    """An instance, (channels, pixels) in registers; the variance is of centred values, as both passes are free."""
    n = tl.program_id(0)
    x += instance(n, G, K, x_sample, x_channel)
    out += instance(n, G, K, out_sample, out_channel)
    n = n.to(tl.int64)
    c, i = tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_PIXELS)
    h, w = i // W, i % W
    real, inside = c < K, i < H * W
    here = real[:, None] & inside[None, :]
    at = c.to(tl.int64)[:, None] * x_channel + offsets(h, w, x_row, x_column, WIDE)[None, :]
    values = tl.load(x + at, mask=here, other=0).to(ACC)

    sides = gates + ((n * K + c) * (H + W))[:, None]
    a = tl.load(sides + h[None, :], mask=here, other=0)
    t = rounded_product(values * a, tl.load(sides + H + w[None, :], mask=here, other=0))
    mu = tl.sum(t, 1) / H / W
    t = tl.where(here, t - mu[:, None], 0)
    scale = 1.0 / tl.sqrt(tl.sum(rounded_product(t, t), 1) / H / W + EPS)
    tl.store(mean + n * K + c, mu, mask=real)
    tl.store(rstd + n * K + c, scale, mask=real)

    kappa = tl.load(q + n * K + c, mask=real, other=0) * tl.load(gamma + c, mask=real, other=0) * scale
    y = tl.sum(rounded_product(kappa[:, None], t), 0) + constant_term(q + n * K, p, beta, b3, K, BLOCK_K)
    for k in tl.static_range(9):
        tap = tl.load(taps + 9 * c + k, mask=real, other=0)
        z = tl.sum(rounded_product(tap[:, None], values), 0)
        y += shifted(z, k // 3 - 1, k % 3 - 1, i, h, w, inside, W, H, W, BLOCK_PIXELS)
    value = tl.sigmoid(y)
    tl.store(gate + n * H * W + i, value, mask=inside)
    to = c.to(tl.int64)[:, None] * out_channel + offsets(h, w, out_row, out_column, WIDE)[None, :]
    tl.store(out + to, (values * value[None, :]).to(out.dtype.element_ty), mask=here)
