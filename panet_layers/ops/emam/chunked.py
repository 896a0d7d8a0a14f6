"""EMAM's hand-written forward and backward, a cache-sized piece of the input at a time.

Kept for the backward: the input and small statistics, of 1/H, 1/W and 1/K of its size. The names are those of the
derivation: t = x a d is the gated map, p and q the softmaxed means of the two branches, delta the gradient before the
last sigmoid. N instances (sample, group) of K channels and P = H * W pixels make a piece.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..chunks import Scratch, accumulation_dtype, load, pieces, row_sums, store, target
from .windows import add_border_gradient, border_sums, fold_windows, unfold_windows


class Parameters(NamedTuple):
    """EMAM's parameters, in the state_dict's order and shapes."""

    w1: Tensor  # (K, K, 1, 1)
    b1: Tensor  # (K)
    w3: Tensor  # (K, K, 3, 3)
    b3: Tensor  # (K)
    gamma: Tensor  # (K)
    beta: Tensor  # (K)


class Saved(NamedTuple):
    """What the backward needs beside the input and the parameters; B samples, G groups."""

    means: Tensor  # (B, G, K, H + W): row means, then column means
    mean: Tensor  # (B, G, K) of t
    rstd: Tensor  # (B, G, K) of t
    q: Tensor  # (B, G, K)
    gate: Tensor  # (B, G, P)


def saved_shapes(x: Tensor, groups: int) -> list[tuple[int, ...]]:
    """The shapes of `Saved` for an input x."""
    batch, channels, height, width = x.shape
    k = channels // groups
    return [(batch, groups, *rest) for rest in ((k, height + width), (k,), (k,), (k,), (height * width,))]


def forward(x: Tensor, params: Parameters, groups: int, eps: float) -> tuple[Tensor, Saved]:
    """x (B, C, H, W) -> the attended map, like x, and what the backward needs."""
    height, width = x.shape[2:]
    k, pixels = x.shape[1] // groups, height * width
    dtype = accumulation_dtype(x.dtype)
    params = Parameters(*(p.to(dtype) for p in params))
    out = torch.empty_like(x)
    saved = Saved(*(x.new_empty(shape, dtype=dtype) for shape in saved_shapes(x, groups)))
    x5, out5 = x.unflatten(1, (groups, k)), out.unflatten(1, (groups, k))

    p = params.beta.softmax(0)
    taps = (p @ params.w3.flatten(1)).view(k, 9).mT.contiguous()
    windows = (fold_windows(params.w3) / pixels).mT
    constant = p @ params.b3
    cuts = pieces(x, groups)
    scratch = Scratch(x, cuts, groups, 2)
    for piece in cuts:
        xs = load(x5, piece)
        n = xs.shape[0]
        means, mean, rstd, q, gate = (part[piece].flatten(0, 1) for part in saved)

        torch.div(row_sums(xs), width, out=means[..., :height])
        torch.mean(xs, 2, out=means[..., height:])
        branch2_mean = torch.addmm(params.b3, border_sums(means, xs).flatten(1), windows)
        torch.softmax(branch2_mean, 1, out=q)

        t = _gated_map(xs, _gates(means, params), scratch(0, n), scratch(1, n))
        torch.mean(t, 2, out=mean)
        t -= mean[..., None]
        torch.linalg.vector_norm(t, dim=2, out=rstd)
        rstd.square_().div_(pixels).add_(eps).rsqrt_()

        y = _shifted_sum(torch.matmul(taps, xs.flatten(2)), height, width)
        y = torch.baddbmm(y, (q * params.gamma * rstd)[:, None], t)[:, 0]
        y += (q @ params.beta + constant)[:, None]
        torch.sigmoid(y, out=gate)
        store(out5, piece, torch.mul(xs, gate.view(n, 1, height, width), out=target(out5, piece, scratch(0, n))))
    return out, saved


def backward(grad: Tensor, x: Tensor, params: Parameters, saved: Saved, groups: int) -> tuple[Tensor, Parameters]:
    """The gradients of x and of the parameters, for the gradient of the output (B, C, H, W)."""
    height, width = x.shape[2:]
    k, pixels = x.shape[1] // groups, height * width
    dtype = accumulation_dtype(x.dtype)
    given, params = params, Parameters(*(p.to(dtype) for p in params))
    dx = torch.empty_like(x)
    x5, grad5, dx5 = (part.unflatten(1, (groups, k)) for part in (x, grad, dx))

    p = params.beta.softmax(0)
    taps = (p @ params.w3.flatten(1)).view(k, 9).flip(1).contiguous()
    windows = fold_windows(params.w3) / pixels
    w1 = params.w1.flatten(1)
    total = Parameters(*(torch.zeros_like(part) for part in params))
    dw1, total_e, total_windows = torch.zeros_like(w1), x.new_zeros((9, k), dtype=dtype), torch.zeros_like(windows)
    total_d = x.new_zeros((), dtype=dtype)
    cuts = pieces(x, groups)
    scratch = Scratch(x, cuts, groups, 4)
    for piece in cuts:
        xs, gs = load(x5, piece), load(grad5, piece)
        n = xs.shape[0]
        means, mean, rstd, q, gate = (part[piece].flatten(0, 1) for part in saved)

        delta = torch.mul(xs, gs, out=scratch(0, n)).flatten(2).sum(1)
        delta *= gate * (1 - gate)
        neighbours = _neighbours(delta, height, width)
        d = delta.sum(1, keepdim=True)
        total_d += d.sum()
        total_e += torch.bmm(neighbours, xs.flatten(2).mT).sum(0)

        gates = _gates(means, params)
        t = _gated_map(xs, gates, scratch(0, n), scratch(1, n))
        hh = rstd * (torch.bmm(delta[:, None], t.mT)[:, 0] - mean * d)
        kappa = q * params.gamma * rstd
        slope = -kappa * rstd * hh / pixels
        offset = -kappa * d / pixels - slope * mean
        dt = torch.addcmul(offset[..., None], t, slope[..., None], out=t)
        dt = torch.addcmul(dt, kappa[..., None], delta[:, None], out=dt)
        dgated = dt.mul_(scratch(1, n).flatten(2)).view(n, k, height, width)

        dpre = torch.mul(xs, dgated, out=scratch(1, n))
        dpre = torch.cat([row_sums(dpre), dpre.sum(2)], 2).mul_(1 - gates)
        dw1 += torch.mm(dpre.transpose(0, 1).flatten(1), means.transpose(0, 1).flatten(1).mT)
        total.b1.add_(dpre.sum((0, 2)))
        dmeans = w1.mT @ dpre

        dq = params.gamma * hh + params.beta * d
        dm = q * (dq - (q * dq).sum(1, keepdim=True))
        total_windows += dm.mT @ border_sums(means, xs).flatten(1)
        total.b3.add_(dm.sum(0))
        total.gamma.add_((q * hh).sum(0))
        total.beta.add_((q * d).sum(0))

        dxs = torch.mul(gs, gate.view(n, 1, height, width), out=target(dx5, piece, scratch(2, n)))
        dxs += dgated
        dxs += torch.matmul(taps, neighbours, out=scratch(1, n).flatten(2)).view_as(dxs)
        add_border_gradient(dxs, dmeans, (dm @ windows).view(n, k, 9))
        store(dx5, piece, dxs)

    dp = (params.w3.flatten(2) * total_e.mT.flip(1)).sum((1, 2)) + params.b3 * total_d
    dw3 = torch.outer(p, total_e.mT.flip(1).flatten()).view_as(params.w3)
    total.w3.copy_(dw3 + unfold_windows(total_windows / pixels, k))
    total.b3.add_(p * total_d)
    total.beta.add_(p * (dp - p @ dp))
    total.w1.copy_(dw1.view_as(params.w1))
    return dx, Parameters(*(part.to(like.dtype) for part, like in zip(total, given)))


def _gates(means: Tensor, params: Parameters) -> Tensor:
    """(N, K, H + W) row and column means -> row and column gates."""
    return torch.add(params.w1.flatten(1) @ means, params.b1[:, None]).sigmoid_()


def _gated_map(x: Tensor, gates: Tensor, out: Tensor, gate_map: Tensor) -> Tensor:
    """t (N, K, P) in `out`; the product of the gates is left in `gate_map`."""
    height = x.shape[2]
    torch.mul(gates[..., :height, None], gates[..., None, height:], out=gate_map)
    return torch.mul(x, gate_map, out=out).flatten(2)


def _shifted_sum(maps: Tensor, height: int, width: int) -> Tensor:
    """(N, 9, P): map k holds the products with tap k; move each to the pixel that it belongs to and add: (N, 1, P)."""
    maps = maps.unflatten(2, (height, width))
    total = maps[:, 4].clone()
    for tap in (0, 1, 2, 3, 5, 6, 7, 8):
        to_y, from_y = _overlap(tap // 3 - 1, height)
        to_x, from_x = _overlap(tap % 3 - 1, width)
        total[:, to_y, to_x] += maps[:, tap, from_y, from_x]
    return total.flatten(1)[:, None]


def _overlap(shift: int, size: int) -> tuple[slice, slice]:
    """The positions h that have a neighbour at h + shift, and those neighbours."""
    return slice(max(0, -shift), size - max(0, shift)), slice(max(0, shift), size - max(0, -shift))


def _neighbours(delta: Tensor, height: int, width: int) -> Tensor:
    """(N, P) -> (N, 9, P): row (j, i) is delta at (h + j - 1, w + i - 1), zero outside."""
    padded = F.pad(delta.view(-1, height, width), (1, 1, 1, 1))
    return padded.unfold(1, height, 1).unfold(2, width, 1).flatten(1, 2).flatten(2)
