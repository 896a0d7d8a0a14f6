"""EMAM's hand-written forward and backward on a GPU: Triton kernels for what is large, torch GEMMs for what is small.

Symbols are those of docs/derivation.md. The kernels take channels_last maps; others are copied there and back.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..availability import check_pixels, current_device
from ..layouts import in_layout_of
from ..precision import accumulation_dtype
from .tensors import Parameters, Saved, channels_last, clear_unread_taps, empty_saved


def forward(x: Tensor, params: Parameters, groups: int, eps: float) -> tuple[Tensor, Saved]:
    """Return the attended map, like x (B, C, H, W), and what the backward needs."""
    check_pixels(x)
    if x.numel() == 0:
        return torch.empty_like(x), empty_saved(x, groups, channels_last(x))
    given, x = x, _in_channels_last(x)
    out, saved = _forward(x, params, groups, eps)
    if not channels_last(given):
        saved = saved._replace(means=saved.means.contiguous(), gates=saved.gates.contiguous())
    return in_layout_of(given, x, out), saved


def _forward(x: Tensor, params: Parameters, groups: int, eps: float) -> tuple[Tensor, Saved]:
    """Return what `forward` returns, for x in channels_last."""
    from . import triton as kernels

    dtype = accumulation_dtype(x.dtype)
    out, saved = torch.empty_like(x), empty_saved(x, groups, channels_innermost=True)
    params = params.to(dtype)
    k = params.beta.shape[0]
    with current_device(x):
        means, gates = _sides(saved.means), _sides(saved.gates)
        mean, rstd, q, gate = (part.flatten(0, 1) for part in saved[2:])
        kernels.pool(x, means)
        w1, w3 = params.w1.flatten(1), params.w3.flatten(1)
        torch.addmm(params.b1, means.view(-1, k), w1.mT, out=gates.view(-1, k)).sigmoid_()
        windows = means.new_empty((*q.shape, 9))
        kernels.moments(x, means, gates, eps, mean, rstd, windows)
        torch.softmax(torch.addmm(params.b3, windows.flatten(1), w3.mT), 1, out=q)
        p = params.beta.softmax(0)
        kernels.attend(x, gates, mean, rstd, q, p, p @ w3, params, out, gate)
    return out, saved


def backward(grad: Tensor, x: Tensor, params: Parameters, saved: Saved, groups: int) -> tuple[Tensor, Parameters]:
    """Return the gradients of x and of the parameters, for the gradient of the output (B, C, H, W)."""
    if x.numel() == 0:
        return torch.empty_like(x), Parameters(*(p.new_zeros(p.shape) for p in params))
    given, x = x, _in_channels_last(x)
    dx, gradients = _backward(_in_channels_last(grad), x, params, saved)
    return in_layout_of(given, x, dx), gradients


def _backward(grad: Tensor, x: Tensor, params: Parameters, saved: Saved) -> tuple[Tensor, Parameters]:
    """Return what `backward` returns, for maps in channels_last and statistics with channels innermost."""
    from . import triton as kernels

    dtype = accumulation_dtype(x.dtype)
    given, params = params, params.to(dtype)
    k = params.beta.shape[0]
    with current_device(x):
        means, gates = _sides(saved.means), _sides(saved.gates)
        mean, rstd, q, gate = (part.flatten(0, 1) for part in saved[2:])
        w1, w3 = params.w1.flatten(1), params.w3.flatten(1)
        delta = kernels.padded(gate, *x.shape[2:])
        kernels.delta(grad, x, gate, delta)

        n = len(q)
        dm = q.new_empty((n + 1, k))  # the last row is p, which shares two products with the gradients of m
        torch.softmax(params.beta, 0, out=dm[n])
        windows = q.new_empty((n + 1, 9 * k))  # the last row is the sum of `e`
        total, dpre = delta.sum(1), torch.empty_like(means)
        coefficients, e = q.new_empty((3, *q.shape)), q.new_empty((n, 9 * k))
        dq, hh = torch.empty_like(q), torch.empty_like(q)
        results = (dpre, windows, coefficients, dq, hh, e)
        kernels.contract(x, means, gates, mean, rstd, q, params, delta, total, *results)

        torch._softmax_backward_data(dq, q, 1, dtype, grad_input=dm[:n])
        dwindows = dm @ w3
        taps, dmeans = dwindows[n], dpre.view(-1, k) @ w1
        dx = torch.empty_like(x)
        kernels.input_gradient(grad, x, gates, gate, delta, coefficients, taps, dmeans, dwindows, dx)
        del delta, coefficients, dmeans, results  # to free the memory that the products below need

        torch.sum(e, 0, out=windows[n])
        vectors = [torch.empty_like(params.beta) for _ in range(3)]
        kernels.vector_gradients(params, q, hh, total, windows[n], taps, dm, *vectors)
        dpre = dpre.view(-1, k)
        dw1, dw3 = dpre.mT @ means.view(-1, k), dm.mT @ windows
        gradients = Parameters(dw1, dpre.sum(0), dw3, *vectors)
    clear_unread_taps(gradients.w3.view(k, k, 3, 3), *x.shape[2:])
    return dx, gradients.like(given)


def _in_channels_last(x: Tensor) -> Tensor:
    """Return x with channels innermost: x itself, or a copy."""
    return x if channels_last(x) else x.contiguous(memory_format=torch.channels_last)


def _sides(statistics: Tensor) -> Tensor:
    """Return means or gates (B, G, K, H + W) as (B, H + W, C), as the forward in channels_last has them in memory."""
    return statistics.permute(0, 3, 1, 2).contiguous().flatten(2)
