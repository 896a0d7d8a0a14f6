"""EMAM as one step of the autograd graph: registered operators, `chunked` or `fused`, forward and backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import library  # noqa: F401  (registers the operators)
from ..chunks import accumulation_dtype
from . import collapsed


def emam(x: Tensor, *params_groups_eps: Any, fused: bool) -> Tensor:
    """As the reference's `emam`, x (B, C, H, W); first derivatives by hand, higher ones through the plain form.

    `fused` takes the Triton kernels.
    """
    if torch.is_grad_enabled() and any(t.requires_grad for t in (x, *params_groups_eps[:6])):
        return _EMAM.apply(x, *params_groups_eps, fused)
    forward, _ = _operators(fused)
    return forward(x, *params_groups_eps)[0]


def _operators(fused: bool) -> tuple[Any, Any]:
    ops = torch.ops.panet_layers
    return (ops.emam_fused_forward, ops.emam_fused_backward) if fused else (ops.emam_forward, ops.emam_backward)


class _EMAM(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *params_and_settings: Any) -> Tensor:
        *params, ctx.groups, ctx.eps, ctx.fused = params_and_settings
        forward, _ = _operators(ctx.fused)
        out, *saved = forward(x, *params, ctx.groups, ctx.eps)
        ctx.save_for_backward(x, *params, *saved)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *rest = ctx.saved_tensors
        params, saved = rest[:6], rest[6:]
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return *_differentiable_backward(grad, [x, *params], ctx), None, None, None
        _, backward = _operators(ctx.fused)
        return *backward(grad, x, *params, *saved, ctx.groups), None, None, None


def _differentiable_backward(grad: Tensor, inputs: Any, ctx: Any) -> list[Tensor | None]:
    """The gradients as a graph that can be differentiated again (`create_graph=True`)."""
    wanted = [t for t, needed in zip(inputs, ctx.needs_input_grad) if needed]
    dtype = accumulation_dtype(grad.dtype)
    x, *params = (t.to(dtype) for t in inputs)
    run: Any = collapsed.emam
    out = run(x, *params, ctx.groups, ctx.eps).to(grad.dtype)
    grads = iter(torch.autograd.grad(out, wanted, grad, create_graph=True))
    return [next(grads) if needed else None for needed in ctx.needs_input_grad[:7]]
