"""SCAM as one step of the autograd graph: the registered operators, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...compatibility import is_exporting
from .. import flops
from ..registration import runs_directly
from ..second_derivatives import differentiable_gradients
from . import reference
from .operators import DIRECT, OPERATORS
from .tensors import Parameters, Running


def scam(x: Tensor, params: Parameters, norm: nn.BatchNorm2d | None, backend: str) -> Tensor:
    """Return what the reference's `scam` returns, by the backend's operators.

    First derivatives are hand-written; higher ones go through the reference. In training the statistics of `norm` move.
    """
    flops.announce()
    batch_statistics = norm is not None and (norm.training or norm.running_mean is None)
    running = Running(None, None) if norm is None or batch_statistics else Running(norm.running_mean, norm.running_var)
    arguments = (x, *params, *running, batch_statistics, 1.0 if norm is None else norm.eps)
    differentiated = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, *params))
    if differentiated and not is_exporting():
        out, moments = _SCAM.apply(*arguments, backend)
    else:
        forward, _ = _functions(backend, x, *params)
        out, *_, moments = forward(*arguments)
    if norm is not None and norm.training and norm.track_running_stats:
        _update_running(norm, moments, x.shape[0] * x.shape[2] * x.shape[3])
    return out


def _functions(backend: str, *tensors: Tensor | None) -> tuple[Callable, Callable]:
    """Return the backend's forward and backward: its operators, or what they run."""
    if backend in DIRECT and runs_directly(*tensors):
        return DIRECT[backend]
    return OPERATORS[backend]


@torch.no_grad()
def _update_running(norm: Any, moments: Tensor, count: int) -> None:
    """Update the running mean and (unbiased) variance as nn.BatchNorm2d does; an empty batch is only counted."""
    momentum = 0.0 if norm.momentum is None else norm.momentum
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if norm.momentum is None:  # the average of all batches
            momentum = norm.num_batches_tracked.to(moments.dtype).reciprocal()
    if count == 0 or norm.running_mean is None:
        return
    mean, variance = moments.unbind()  # in their own dtype: a variance may overflow float16, and its share may not
    norm.running_mean.mul_(1 - momentum).add_(mean * momentum)
    norm.running_var.mul_(1 - momentum).add_(variance * (momentum * count / (count - 1)))


class _SCAM(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, fc1: Tensor, fc1_bias: Tensor | None, fc2: Tensor, fc2_bias: Tensor | None, conv: Tensor,
        norm_weight: Tensor | None, norm_bias: Tensor | None, running_mean: Tensor | None, running_var: Tensor | None,
        batch_statistics: bool, eps: float, backend: str,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        ctx.batch_statistics, ctx.eps, ctx.backend = batch_statistics, eps, backend
        params = Parameters(fc1, fc1_bias, fc2, fc2_bias, conv, norm_weight, norm_bias)
        forward, _ = _functions(backend, x, *params)
        out, *saved = forward(x, *params, running_mean, running_var, batch_statistics, eps)
        ctx.save_for_backward(x, *params, running_mean, running_var, *saved)
        moments = saved[-1].clone()
        ctx.mark_non_differentiable(moments)
        return out, moments

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _moments: Tensor) -> tuple[Tensor | None, ...]:
        x, fc1, fc1_bias, fc2, fc2_bias, conv, norm_weight, norm_bias, mean, variance, *saved = ctx.saved_tensors
        params = Parameters(fc1, fc1_bias, fc2, fc2_bias, conv, norm_weight, norm_bias)
        gradients: Any
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():

            def plain(x: Tensor, *flat: Tensor) -> Tensor:
                p = Parameters(*flat)

                def norm(logits: Tensor) -> Tensor:
                    return nn.functional.batch_norm(
                        logits, mean, variance, p.norm_weight, p.norm_bias, ctx.batch_statistics, 0.0, ctx.eps
                    )

                mlp = p.fc1, p.fc1_bias, p.fc2, p.fc2_bias
                return reference.scam(x, *mlp, p.conv, None if p.norm_weight is None else norm)

            gradients = differentiable_gradients(plain, (x, *params), ctx.needs_input_grad, grad)
        else:
            flops.announce()
            _, backward = _functions(ctx.backend, grad, x, *params)
            gradients = backward(grad, x, *params, *saved, ctx.batch_statistics, ctx.eps)
            gradients = (None if p is None else g for g, p in zip(gradients, (x, *params)))
        return *gradients, None, None, None, None, None
