"""SCAM as one step of the autograd graph: registered operators, `chunked` or `fused`, forward and backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .. import library  # noqa: F401  (registers the operators)
from ..chunks import accumulation_dtype
from . import reference


def scam(
    x: Tensor,
    fc1_weight: Tensor,
    fc1_bias: Tensor | None,
    fc2_weight: Tensor,
    fc2_bias: Tensor | None,
    conv_weight: Tensor,
    norm: nn.BatchNorm2d | None,
    fused: bool,
) -> Tensor:
    """As the reference's `scam`, x (B, C, H, W); first derivatives by hand, higher ones through the plain form.

    `fused` takes the Triton kernels.
    """
    params = (fc1_weight, fc1_bias, fc2_weight, fc2_bias, conv_weight)
    if norm is None:
        return _run(fused, x, (*params, None, None), None, None, False, 1.0)[0]
    of_batch = norm.training or norm.running_mean is None
    running = (None, None) if of_batch else (norm.running_mean, norm.running_var)
    out, moments = _run(fused, x, (*params, norm.weight, norm.bias), *running, of_batch, norm.eps)
    if norm.training and norm.running_mean is not None:
        _update_running(norm, moments, x.shape[0] * x.shape[2] * x.shape[3])
    return out


def _run(fused: bool, x: Tensor, params: tuple, *norm: Any) -> tuple[Tensor, Tensor]:
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, *params)):
        return _SCAM.apply(x, *params, *norm, fused)
    forward, _ = _operators(fused)
    out, *_, moments = forward(x, *params, *norm)
    return out, moments


def _operators(fused: bool) -> tuple[Any, Any]:
    ops = torch.ops.panet_layers
    return (ops.scam_fused_forward, ops.scam_fused_backward) if fused else (ops.scam_forward, ops.scam_backward)


@torch.no_grad()
def _update_running(norm: Any, moments: Tensor, count: int) -> None:
    """As nn.BatchNorm2d: the mean, and the unbiased variance, of the batch; an empty one is only counted."""
    norm.num_batches_tracked.add_(1)
    if count == 0:
        return
    mean, variance = moments.to(norm.running_mean.dtype).unbind()
    momentum = norm.momentum
    if momentum is None:  # the average of all batches
        momentum = norm.num_batches_tracked.to(mean.dtype).reciprocal()
    norm.running_mean.mul_(1 - momentum).add_(mean * momentum)
    norm.running_var.mul_(1 - momentum).add_(variance * (momentum * count / (count - 1)))


class _SCAM(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
        *tensors_and_settings, ctx.fused = args
        params, (running_mean, running_var, ctx.of_batch, ctx.eps) = args[:7], tensors_and_settings[7:]
        forward, _ = _operators(ctx.fused)
        out, *saved = forward(x, *tensors_and_settings)
        ctx.save_for_backward(x, *params, running_mean, running_var, *saved)
        moments = saved[-1].clone()
        ctx.mark_non_differentiable(moments)
        return out, moments

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        x, *rest = ctx.saved_tensors
        params, running, saved = rest[:7], rest[7:9], rest[9:]
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return *_differentiable_backward(grad, [x, *params], running, ctx), *[None] * 5
        _, backward = _operators(ctx.fused)
        grads = backward(grad, x, *params, *saved, ctx.of_batch, ctx.eps)
        given = (g if p is not None else None for g, p in zip(grads, (x, *params)))
        return *given, *[None] * 5


def _differentiable_backward(grad: Tensor, inputs: Any, running: Any, ctx: Any) -> list[Tensor | None]:
    """The gradients as a graph that can be differentiated again (`create_graph=True`)."""
    dtype = accumulation_dtype(inputs[0].dtype)
    x, *mlp_and_conv, weight, bias = (None if t is None else t.to(dtype) for t in inputs)
    mean, variance = running

    def norm(logits: Tensor) -> Tensor:
        return nn.functional.batch_norm(logits, mean, variance, weight, bias, ctx.of_batch, 0.0, ctx.eps)

    wanted = [t for t, needed in zip(inputs, ctx.needs_input_grad) if needed]
    run: Any = reference.scam
    out = run(x, *mlp_and_conv, None if weight is None else norm).to(grad.dtype)
    grads = iter(torch.autograd.grad(out, wanted, grad, create_graph=True))
    return [next(grads) if needed else None for needed in ctx.needs_input_grad[:8]]
