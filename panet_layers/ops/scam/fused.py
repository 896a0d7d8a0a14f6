"""SCAM's hand-written forward and backward on a GPU: the launches, in order. Symbols are those of docs/derivation.md.

The forward reads x three times and writes once; the backward reads x twice, the gradient twice, and writes once.
Other passes read its pixel maps only; torch computes the channels' two small linear layers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..availability import check_pixels, current_device
from ..layouts import in_layout_of
from ..precision import accumulation_dtype
from .channel_gate import channel_gate, hidden_features, hidden_gradient, parameter_gradients
from .tensors import FusedSaved, Parameters, Running, empty_fused_saved


def forward(
    x: Tensor, params: Parameters, running: Running, batch_statistics: bool, eps: float
) -> tuple[Tensor, FusedSaved]:
    """Return the attended map, like x (B, C, H, W), and what the backward needs.

    The logits are normalised by the batch's statistics or by the running ones.
    """
    from . import triton as kernels  # not at the top: they import triton

    check_pixels(x)
    if x.numel() == 0:
        return torch.empty_like(x), FusedSaved(*(t.zero_() for t in empty_fused_saved(x, params)))
    params = params.to(accumulation_dtype(x.dtype))
    given, x = x, _dense(x)
    with current_device(x):
        pooled, top_pixel = kernels.pool_pixels(x)
        hidden = hidden_features(pooled, params)
        gate = channel_gate(hidden, params)
        pixels, top_channel = kernels.pool_channels(x, gate)
        of_channels = pixels.view(2, x.shape[0], *x.shape[2:])
        logits = kernels.convolve(of_channels, params.conv)
        moments = _moments(logits, params, running, batch_statistics)
        out = kernels.apply_gates(x, gate, logits, kernels.Norm(moments, params.norm_weight, params.norm_bias, eps))
    saved = FusedSaved(pooled, top_pixel, hidden, gate, of_channels, top_channel.view_as(logits), logits, moments)
    return in_layout_of(given, x, out), saved


def backward(
    grad: Tensor, x: Tensor, params: Parameters, saved: FusedSaved, batch_statistics: bool, eps: float
) -> tuple[Tensor, Parameters]:
    """Return the gradients of x and of the parameters (None stays None), for the gradient of the output."""
    from . import triton as kernels

    if x.numel() == 0:
        return torch.empty_like(x), Parameters._make(None if p is None else torch.zeros_like(p) for p in params)
    given_params, params = params, params.to(accumulation_dtype(x.dtype))
    given, x = x, _dense(x)
    grad = grad.contiguous(memory_format=torch.contiguous_format if x.is_contiguous() else torch.channels_last)
    dx = torch.empty_like(x)
    norm = kernels.Norm(saved.moments, params.norm_weight, params.norm_bias, eps)
    gates = saved.gate, saved.logits, norm
    with current_device(x):
        channel_sums, pixel_sums = kernels.contract(grad, x, *gates)
        dmaps, *of_spatial = kernels.convolve_backward(
            pixel_sums, saved.logits, norm, batch_statistics, saved.maps, params.conv, x.shape[1]
        )
        kernels.contract_maps(x, dmaps, saved.top_channel, channel_sums)
        dv = torch.ops.aten.sigmoid_backward(channel_sums.sum(0), saved.gate)
        dhidden = hidden_gradient(dv, saved.hidden, params)
        dpooled = dhidden @ params.fc1
        kernels.input_gradient(grad, dx, *gates, dmaps, saved.top_channel, dpooled, saved.top_pixel)
        of_channel = parameter_gradients(dv, dhidden, saved.pooled, saved.hidden, params)
    return in_layout_of(given, x, dx), Parameters._make((*of_channel, *of_spatial)).like(given_params)


def _dense(x: Tensor) -> Tensor:
    """Return x in one of the two layouts that the kernels read, contiguous or channels_last; a copy only if needed."""
    return x if x.is_contiguous(memory_format=torch.channels_last) else x.contiguous()


def _moments(logits: Tensor, params: Parameters, running: Running, batch_statistics: bool) -> Tensor:
    if params.norm_weight is None:
        return logits.new_zeros(2)
    if not batch_statistics:
        return torch.cat(running).to(logits.dtype)  # type: ignore[arg-type]
    variance, mean = torch.var_mean(logits, correction=0)
    return torch.stack([mean, variance])
