"""EMAM's hand-written forward and backward, one cache-sized chunk of the input at a time.

The forward saves the input and small statistics, of 2/H, 2/W and 1/K of its size. Symbols are those of
docs/derivation.md: t = x a d is the gated map, and t - mu once its mean is subtracted; p and q are the softmaxed means
of the two branches; delta is the gradient before the last sigmoid. A chunk has N instances (sample, group) of K
channels and P = H * W pixels.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ..chunks import Scratch, cut, load, row_sums, store
from ..precision import accumulation_dtype
from .tensors import Parameters, Saved, clear_unread_taps, empty_saved
from .windows import Windows


def forward(x: Tensor, params: Parameters, groups: int, eps: float) -> tuple[Tensor, Saved]:
    """Return the attended map, like x (B, C, H, W), and what the backward needs."""
    height, width = x.shape[2:]
    k, pixels = x.shape[1] // groups, height * width
    params = params.to(accumulation_dtype(x.dtype))
    out, saved = torch.empty_like(x), empty_saved(x, groups)
    x5, out5 = x.unflatten(1, (groups, k)), out.unflatten(1, (groups, k))

    p = params.beta.softmax(0)
    taps = (p @ params.w3.flatten(1)).view(k, 9).mT.contiguous()
    constant, floor = p @ params.b3, p.new_full((), eps)
    windows = _windows(height, width, p.device, p.dtype)
    chunks = cut(x, groups, _copies(0, 2, k, height, width))
    scratch = Scratch(x, chunks, groups)
    for chunk in chunks:
        xs = load(x5, chunk)
        n = xs.shape[0]
        result = scratch.result(out5, chunk)
        means, gates, mean, rstd, q, gate = (part[chunk].flatten(0, 1) for part in saved)

        torch.div(row_sums(xs), width, out=means[..., :height])
        torch.mean(xs, 2, out=means[..., height:])
        sums = windows.sums(means, xs).flatten(1)
        torch.softmax(torch.addmm(params.b3, sums, params.w3.flatten(1).mT, alpha=1 / pixels), 1, out=q)

        torch.baddbmm(params.b1[:, None], params.w1.flatten(1).expand(n, k, k), means, out=gates).sigmoid_()
        t = _gate_map(gates, height, result).mul_(xs).flatten(2)
        torch.mean(t, 2, out=mean)
        t -= mean[..., None]
        torch.linalg.vector_norm(t, dim=2, out=rstd)
        torch.addcmul(floor, rstd, rstd, value=1 / pixels, out=rstd).rsqrt_()

        y = _shifted_sum(torch.matmul(taps, xs.flatten(2)), height, width)
        y = torch.baddbmm(y, (q * params.gamma * rstd)[:, None], t)[:, 0]
        torch.add(y, torch.addmv(constant, q, params.beta)[:, None], out=gate).sigmoid_()
        store(out5, chunk, torch.mul(xs, gate.view(n, 1, height, width), out=result))
    return out, saved


def backward(grad: Tensor, x: Tensor, params: Parameters, saved: Saved, groups: int) -> tuple[Tensor, Parameters]:
    """Return the gradients of x and of the parameters, for the gradient of the output (B, C, H, W)."""
    height, width = x.shape[2:]
    k, pixels = x.shape[1] // groups, height * width
    given, params = params, params.to(accumulation_dtype(x.dtype))
    dx = torch.empty_like(x)
    x5, grad5, dx5 = (part.unflatten(1, (groups, k)) for part in (x, grad, dx))

    p = params.beta.softmax(0)
    taps = (p @ params.w3.flatten(1)).view(k, 9).flip(1).contiguous()
    w1, w3 = params.w1.flatten(1), params.w3.flatten(1)
    total = Parameters(*map(torch.zeros_like, params))
    dw1, dw3 = total.w1.flatten(1), total.w3.flatten(1)
    total_e = p.new_zeros((9, k))
    small = [(total_e.new_empty(0, 1), total_e.new_empty(0, k), total_e.new_empty(0, k))]
    windows = _windows(height, width, p.device, p.dtype)
    chunks = cut(x, groups, _copies(1, 5, k, height, width))
    scratch = Scratch(x, chunks, groups)
    for chunk in chunks:
        xs, gs = load(x5, chunk), load(grad5, chunk)
        n = xs.shape[0]
        result, other = scratch.result(dx5, chunk), scratch("other", n)
        means, gates, mean, rstd, q, gate = (part[chunk].flatten(0, 1) for part in saved)

        delta = torch.mul(xs, gs, out=result).flatten(2).sum(1)
        delta = torch.ops.aten.sigmoid_backward(delta, gate)
        neighbours = _neighbours(delta, height, width)
        d = delta.sum(1, keepdim=True)
        total_e += torch.bmm(neighbours, xs.flatten(2).mT).sum(0)

        t = _gate_map(gates, height, result).mul_(xs).flatten(2)
        t -= mean[..., None]
        # Not delta itself: the sum of t is zero up to a rounding, which a large mean of delta would enlarge.
        varying = torch.sub(delta, d, alpha=1 / pixels)[:, None]
        hh = rstd * torch.mul(t, varying, out=other.flatten(2)).sum(2)
        kappa = q * params.gamma * rstd
        t *= (kappa * rstd * hh / -pixels)[..., None]
        dt = t.addcmul_(kappa[..., None], varying)
        dgated = dt.view_as(result).mul_(_gate_map(gates, height, other))

        psi = torch.mul(xs, dgated, out=other)
        dpre = torch.cat([row_sums(psi), psi.sum(2)], 2).mul_(1 - gates)
        dw1.addmm_(dpre.transpose(0, 1).flatten(1), means.transpose(0, 1).flatten(1).mT)
        total.b1.add_(dpre.sum((0, 2)))
        dmeans = w1.mT @ dpre

        dm = torch.ops.aten._softmax_backward_data(params.gamma * hh + params.beta * d, q, 1, q.dtype)
        dw3.addmm_(dm.mT, windows.sums(means, xs).flatten(1), alpha=1 / pixels)
        small.append((d, hh, dm))

        result.addcmul_(gs, gate.view(n, 1, height, width))
        result.flatten(2).baddbmm_(taps.expand(n, k, 9), neighbours)
        windows.add_gradient(result, dmeans, ((dm / pixels) @ w3).view(n, k, 9))
        store(dx5, chunk, result)

    d, hh, dm = (torch.cat(parts) for parts in zip(*small))
    q, total_d, total_e = saved.q.flatten(0, 1), d.sum(), total_e.mT.flip(1).flatten()
    dp = w3 @ total_e + params.b3 * total_d
    dw3.addr_(p, total_e)
    clear_unread_taps(total.w3, height, width)
    torch.add(dm.sum(0), p * total_d, out=total.b3)
    torch.sum(q * hh, 0, out=total.gamma)
    torch.add((q * d).sum(0), p * (dp - p @ dp), out=total.beta)
    return dx, total.like(given)


@lru_cache(maxsize=64)
def _windows(height: int, width: int, device: torch.device, dtype: torch.dtype) -> Windows:
    return Windows(height, width, torch.empty(0, device=device, dtype=dtype))


def _copies(buffers: int, sides: int, k: int, height: int, width: int) -> float:
    """Return a chunk's scratch memory in multiples of its size: buffers, sets of rows and columns, a dozen maps."""
    return buffers + sides * (height + width) / (height * width) + 12 / k


def _gate_map(gates: Tensor, height: int, out: Tensor) -> Tensor:
    """Return the products of row and column gates, a d: (N, K, H, W)."""
    return torch.mul(gates[..., :height, None], gates[..., None, height:], out=out)


def _shifted_sum(maps: Tensor, height: int, width: int) -> Tensor:
    """Return the sum (N, 1, P) of maps (N, 9, P), each shifted by its tap: map (ky, kx) is for tap (ky, kx).

    The sums are made in the memory of `maps`: over kx first, then over ky.
    """
    left, rows, right = maps.view(-1, 3, 3, height, width).unbind(2)
    rows[..., 1:] += left[..., :-1]
    rows[..., :-1] += right[..., 1:]
    above, total, below = rows.unbind(1)
    total[:, 1:] += above[:, :-1]
    total[:, :-1] += below[:, 1:]
    return total.flatten(1)[:, None]


def _neighbours(delta: Tensor, height: int, width: int) -> Tensor:
    """Return (N, 9, P), whose row (ky, kx) is delta (N, P) at (h + ky - 1, w + kx - 1), zero outside."""
    padded = F.pad(delta.view(-1, height, width), (1, 1, 1, 1))
    return padded.unfold(1, height, 1).unfold(2, width, 1).flatten(1, 2).flatten(2)
