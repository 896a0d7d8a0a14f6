"""EMAM's hand-written forward and backward on a GPU: Triton kernels for what is large, torch GEMMs for what is small.

Symbols are those of docs/derivation.md. Two sets of kernels have the same launchers: nchw/ for NCHW and any other
strides, nhwc/ for channels_last.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from ..availability import check_pixels, current_device
from ..precision import accumulation_dtype
from .tensors import Parameters, Saved, channels_last, clear_unread_taps, empty_saved


def forward(x: Tensor, params: Parameters, groups: int, eps: float) -> tuple[Tensor, Saved]:
    """Return the attended map, like x (B, C, H, W), and what the backward needs."""
    check_pixels(x)
    dtype = accumulation_dtype(x.dtype)
    out = torch.empty_like(x)
    saved = empty_saved(x, groups, channels_last(x))
    if x.numel() == 0:
        return out, saved
    kernels, params = _kernels(x), params.to(dtype)
    k = params.beta.shape[0]
    with current_device(x):
        means, gates, mean, rstd, q, gate = (part.flatten(0, 1) for part in saved)
        windows = x.new_empty((means.shape[0], k, 9), dtype=dtype)
        kernels.pool(x, means, windows)

        w1, w3 = params.w1.flatten(1), params.w3.flatten(1)
        if channels_last(x):
            torch.addmm(params.b1, means.mT.flatten(0, 1), w1.mT, out=gates.mT.flatten(0, 1)).sigmoid_()
        else:
            torch.baddbmm(params.b1[:, None], w1.expand(len(means), k, k), means, out=gates).sigmoid_()
        torch.softmax(torch.addmm(params.b3, windows.flatten(1), w3.mT), 1, out=q)
        p = params.beta.softmax(0)
        taps = p @ w3
        if not channels_last(x) and kernels.fits(k, x.shape[2] * x.shape[3], dtype):
            kernels.attend_whole(x, gates, eps, mean, rstd, q, p, taps, params, out, gate)
        else:
            kernels.moments(x, gates, eps, mean, rstd)
            kernels.attend(x, gates, mean, rstd, q, p, taps, params, out, gate)
    return out, saved


def backward(grad: Tensor, x: Tensor, params: Parameters, saved: Saved, groups: int) -> tuple[Tensor, Parameters]:
    """Return the gradients of x and of the parameters, for the gradient of the output (B, C, H, W)."""
    dtype = accumulation_dtype(x.dtype)
    dx = torch.empty_like(x)
    if x.numel() == 0:
        return dx, Parameters(*(p.new_zeros(p.shape) for p in params))
    kernels, given, params = _kernels(x), params, params.to(dtype)
    k, pixels = params.beta.shape[0], x.shape[2] * x.shape[3]
    with current_device(x):
        means, gates, mean, rstd, q, gate = (part.flatten(0, 1) for part in saved)
        w1, w3 = params.w1.flatten(1), params.w3.flatten(1)
        p = params.beta.softmax(0)
        last = channels_last(x)
        # A gradient in another layout is copied once, because two passes read it.
        if last and not channels_last(grad):
            grad = grad.contiguous(memory_format=torch.channels_last)
        delta = kernels.padded(gate, *x.shape[2:]) if last else torch.empty_like(gate)
        kernels.delta(grad, x, gate, delta)

        n, _, sides = means.shape
        dpre = means.new_empty((n, sides, k)).permute(2, 0, 1) if last else means.new_empty((k, n, sides))
        windows = means.new_empty((n, k, 9))
        coefficients = means.new_empty((n, 3, k))
        sums = means.new_empty((n, 13 * k))
        kernels.contract(x, means, gates, mean, rstd, q, params, delta, dpre, windows, coefficients, sums)

        dm = torch._softmax_backward_data(sums[:, :k], q, 1, dtype)
        dwindows = torch.addmm(means.new_empty(()), dm, w3, beta=0, alpha=1 / pixels)
        dmeans = (dpre.flatten(1).mT @ w1).mT if last else w1.mT @ dpre.flatten(1)
        kernels.input_gradient(grad, x, gates, gate, delta, coefficients, p @ w3, dmeans, dwindows, dx)
        del delta, coefficients, dmeans, dwindows  # to free the memory that the products below need

        dgamma, dbeta, db1, e = sums[:, k:].sum(0).split([k, k, k, 9 * k])
        d = dbeta.sum()
        dp = w3 @ e + params.b3 * d
        gradients = Parameters(
            w1=dpre.flatten(1) @ means.transpose(0, 1).flatten(1).mT,
            b1=db1.clone(),
            w3=torch.addmm(torch.outer(p, e), dm.mT, windows.flatten(1)),
            b3=dm.sum(0) + p * d,
            gamma=dgamma.clone(),
            beta=dbeta + p * (dp - p @ dp),
        )
    clear_unread_taps(gradients.w3.view(k, k, 3, 3), *x.shape[2:])
    return dx, gradients.like(given)


def _kernels(x: Tensor) -> ModuleType:
    """Return the set of kernels for the memory format of x."""
    if channels_last(x):
        from . import nhwc

        return nhwc
    from . import nchw

    return nchw
