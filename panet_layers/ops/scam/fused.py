"""SCAM's hand-written forward and backward on an NVIDIA GPU: the launches, in order.

The forward reads x three times and writes once; the backward reads x twice, the gradient twice, and writes once.
Between the passes over x come those over its pixel maps, and the channels' two small linear layers, which are torch's.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..chunks import accumulation_dtype
from ..fusion import check_pixels
from . import kernels
from .chunked import Parameters


class Saved(NamedTuple):
    """What the backward needs beside the input and the parameters."""

    pooled: Tensor  # (2, B, C): mean and maximum over the pixels
    top_pixel: Tensor  # (B, C) int32: the first pixel that has the maximum
    hidden: Tensor  # (2, B, hidden): of both, after the ReLU
    gate: Tensor  # (B, C): the channels' attention
    maps: Tensor  # (2, B, H, W): mean and maximum over the gated channels
    top_channel: Tensor  # (B, H, W) int32: the first channel that has the maximum
    logits: Tensor  # (B, H, W), before the normalisation
    moments: Tensor  # (2): mean and variance that normalise the logits


def empty_saved(x: Tensor, hidden: int) -> Saved:
    """`Saved` for an input x, unfilled."""
    batch, channels, height, width = x.shape
    dtype = accumulation_dtype(x.dtype)
    shapes = {
        "pooled": (2, batch, channels),
        "top_pixel": (batch, channels),
        "hidden": (2, batch, hidden),
        "gate": (batch, channels),
        "maps": (2, batch, height, width),
        "top_channel": (batch, height, width),
        "logits": (batch, height, width),
        "moments": (2,),
    }
    made = {n: x.new_empty(s, dtype=torch.int32 if n.startswith("top") else dtype) for n, s in shapes.items()}
    return Saved(**made)


def forward(x: Tensor, params: Parameters, running: tuple[Tensor, Tensor] | None, eps: float) -> tuple[Tensor, Saved]:
    """x (B, C, H, W) -> the attended map, like x, and what the backward needs.

    `running` holds the mean and variance that normalise the logits; None takes the batch's own.
    """
    check_pixels(x)
    if x.numel() == 0:
        return torch.empty_like(x), Saved(*(t.zero_() for t in empty_saved(x, len(params.fc1))))
    params = _in_dtype(params, accumulation_dtype(x.dtype))
    given, x = x, _dense(x)
    with _on(x.device):
        pooled, top_pixel = kernels.pool_pixels(x)
        hidden = F.linear(pooled, params.fc1, params.fc1_bias).relu_()
        gate = _channel_gate(hidden, params)
        pixels, top_channel = kernels.pool_channels(x, gate)
        of_channels = pixels.view(2, x.shape[0], *x.shape[2:])
        logits = kernels.convolve(of_channels, params.conv)
        moments = _moments(logits, params, running)
        out = kernels.apply_gates(x, gate, logits, kernels.Norm(moments, params.norm_weight, params.norm_bias, eps))
    saved = Saved(pooled, top_pixel, hidden, gate, of_channels, top_channel.view_as(logits), logits, moments)
    return _like(given, x, out), saved


def backward(
    grad: Tensor, x: Tensor, params: Parameters, saved: Saved, batch_statistics: bool, eps: float
) -> tuple[Tensor, Parameters]:
    """The gradients of x and of the parameters (None stays None), for the gradient of the output."""
    if x.numel() == 0:
        return torch.empty_like(x), Parameters._make(None if p is None else torch.zeros_like(p) for p in params)
    given_params, params = params, _in_dtype(params, accumulation_dtype(x.dtype))
    given, x = x, _dense(x)
    grad = grad.contiguous(memory_format=torch.contiguous_format if x.is_contiguous() else torch.channels_last)
    dx = torch.empty_like(x)
    norm = kernels.Norm(saved.moments, params.norm_weight, params.norm_bias, eps)
    gates = saved.gate, saved.logits, norm
    with _on(x.device):
        channel_sums, pixel_sums = kernels.contract(grad, x, *gates)
        dmaps, *of_spatial = kernels.convolve_backward(
            pixel_sums, saved.logits, norm, batch_statistics, saved.maps, params.conv, x.shape[1]
        )
        kernels.contract_maps(x, dmaps, saved.top_channel, channel_sums)
        dpooled, of_channel = _mlp_backward(channel_sums.sum(0), saved, params)
        kernels.input_gradient(grad, dx, *gates, dmaps, saved.top_channel, dpooled, saved.top_pixel)
    grads = zip((*of_channel, *of_spatial), given_params)
    dparams = (None if g is None or p is None else g.to(p.dtype).contiguous() for g, p in grads)
    return _like(given, x, dx), Parameters._make(dparams)


def _on(device: torch.device) -> AbstractContextManager:
    """Triton launches on the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _in_dtype(params: Parameters, dtype: torch.dtype) -> Parameters:
    return Parameters._make(None if p is None else p.to(dtype).contiguous() for p in params)


def _dense(x: Tensor) -> Tensor:
    """x in one of the two layouts that the kernels read; a copy only where it is in neither."""
    return x if x.is_contiguous(memory_format=torch.channels_last) else x.contiguous()


def _like(given: Tensor, dense: Tensor, result: Tensor) -> Tensor:
    """A result computed for the dense form of the given tensor, in the strides that a fresh tensor like that has."""
    return result if given is dense else torch.empty_like(given).copy_(result)


def _channel_gate(hidden: Tensor, params: Parameters) -> Tensor:
    """(2, B, hidden) -> (B, C); the second layer is linear, so it runs once on the sum."""
    gate = F.linear(hidden.sum(0), params.fc2)
    if params.fc2_bias is not None:
        gate.add_(params.fc2_bias, alpha=2)
    return gate.sigmoid_()


def _moments(logits: Tensor, params: Parameters, running: tuple[Tensor, Tensor] | None) -> Tensor:
    if params.norm_weight is None:
        return logits.new_zeros(2)
    if running is not None:
        return torch.cat(running).to(logits.dtype)
    variance, mean = torch.var_mean(logits, correction=0)
    return torch.stack([mean, variance])


def _mlp_backward(dgate: Tensor, saved: Saved, params: Parameters) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """The gradients of `pooled` (2, B, C), and of fc1, its bias, fc2, its bias."""
    dgate = torch.ops.aten.sigmoid_backward(dgate, saved.gate)
    dhidden = torch.ops.aten.threshold_backward((dgate @ params.fc2).expand_as(saved.hidden), saved.hidden, 0)
    rows = dhidden.flatten(0, 1)
    fc1, fc2 = rows.mT @ saved.pooled.flatten(0, 1), dgate.mT @ saved.hidden.sum(0)
    fc1_bias = None if params.fc1_bias is None else rows.sum(0)
    fc2_bias = None if params.fc2_bias is None else 2 * dgate.sum(0)
    return dhidden @ params.fc1, (fc1, fc1_bias, fc2, fc2_bias)
