"""EMAM as one step of the autograd graph: the registered operators, forward and backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...compatibility import is_exporting
from .. import flops
from ..second_derivatives import differentiable_gradients
from . import collapsed
from .operators import OPERATORS
from .tensors import Parameters


def emam(x: Tensor, params: Parameters, groups: int, eps: float, backend: str) -> Tensor:
    """Return what the reference's `emam` returns, by the backend's operators.

    First derivatives are hand-written; higher ones go through the plain form, `collapsed`.
    """
    flops.announce()
    if torch.is_grad_enabled() and not is_exporting() and any(t.requires_grad for t in (x, *params)):
        return _EMAM.apply(x, *params, groups, eps, backend)
    forward, _ = OPERATORS[backend]
    out, *_ = forward(x, *params, groups, eps)
    return out


class _EMAM(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w1: Tensor, b1: Tensor, w3: Tensor, b3: Tensor, gamma: Tensor, beta: Tensor,
        groups: int, eps: float, backend: str,
    ) -> Tensor:  # fmt: skip
        ctx.groups, ctx.eps, ctx.backend = groups, eps, backend
        forward, _ = OPERATORS[backend]
        out, *saved = forward(x, w1, b1, w3, b3, gamma, beta, groups, eps)
        ctx.save_for_backward(x, w1, b1, w3, b3, gamma, beta, *saved)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, w1, b1, w3, b3, gamma, beta, *saved = ctx.saved_tensors
        params = Parameters(w1, b1, w3, b3, gamma, beta)
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():

            def plain(x: Tensor, *params: Tensor) -> Tensor:
                return collapsed.emam(x, Parameters(*params), ctx.groups, ctx.eps)

            gradients = differentiable_gradients(plain, (x, *params), ctx.needs_input_grad, grad)
        else:
            flops.announce()
            _, backward = OPERATORS[ctx.backend]
            gradients = backward(grad, x, *params, *saved, ctx.groups)
        return *gradients, None, None, None
