"""EMAM's collapsed form as one step of the autograd graph: registered operators forward and backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import library  # noqa: F401  (registers the operators)
from ..chunks import accumulation_dtype
from . import collapsed


def emam(x: Tensor, *params_groups_eps: Any) -> Tensor:
    """As the reference's `emam`, x (B, C, H, W); first derivatives by hand, higher ones through the plain form."""
    if torch.is_grad_enabled() and any(t.requires_grad for t in (x, *params_groups_eps[:6])):
        return _EMAM.apply(x, *params_groups_eps)
    return torch.ops.panet_layers.emam_forward(x, *params_groups_eps)[0]


class _EMAM(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *params_groups_eps: Any) -> Tensor:
        *params, groups, eps = params_groups_eps
        out, *saved = torch.ops.panet_layers.emam_forward(x, *params, groups, eps)
        ctx.save_for_backward(x, *params, *saved)
        ctx.groups, ctx.eps = groups, eps
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *rest = ctx.saved_tensors
        params, saved = rest[:6], rest[6:]
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return *_differentiable_backward(grad, [x, *params], ctx), None, None
        return *torch.ops.panet_layers.emam_backward(grad, x, *params, *saved, ctx.groups), None, None


def _differentiable_backward(grad: Tensor, inputs: Any, ctx: Any) -> list[Tensor | None]:
    """The gradients as a graph that can be differentiated again (`create_graph=True`)."""
    wanted = [t for t, needed in zip(inputs, ctx.needs_input_grad) if needed]
    dtype = accumulation_dtype(grad.dtype)
    x, *params = (t.to(dtype) for t in inputs)
    run: Any = collapsed.emam
    out = run(x, *params, ctx.groups, ctx.eps).to(grad.dtype)
    grads = iter(torch.autograd.grad(out, wanted, grad, create_graph=True))
    return [next(grads) if needed else None for needed in ctx.needs_input_grad[:7]]
