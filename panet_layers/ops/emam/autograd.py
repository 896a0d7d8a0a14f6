"""EMAM as one step of the autograd graph: the registered operators, forward and backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import flops
from ..registration import if_given, of_given, recorded
from ..second_derivatives import differentiable_gradients
from . import collapsed
from .operators import OPERATORS
from .tensors import Parameters


def emam(x: Tensor, params: Parameters, groups: int, eps: float, backend: str, share: Tensor | None = None) -> Tensor:
    """Return what the reference's `emam` returns, by the backend's operators. With a share, lerp(x, that, share).

    First derivatives are hand-written; higher ones go through the plain form, `collapsed`. Of the backends, "native"
    takes a share.
    """
    flops.announce()
    if recorded(x, *params, share):
        return _EMAM.apply(x, *params, share, groups, eps, backend)
    forward, _ = OPERATORS[backend]
    out, *_ = forward(x, *params, groups, eps, *if_given(share))
    return out


class _EMAM(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w1: Tensor, b1: Tensor, w3: Tensor, b3: Tensor, gamma: Tensor, beta: Tensor,
        share: Tensor | None, groups: int, eps: float, backend: str,
    ) -> Tensor:  # fmt: skip
        ctx.groups, ctx.eps, ctx.backend = groups, eps, backend
        forward, _ = OPERATORS[backend]
        out, *saved = forward(x, w1, b1, w3, b3, gamma, beta, groups, eps, *if_given(share))
        ctx.save_for_backward(x, w1, b1, w3, b3, gamma, beta, share, *saved)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, w1, b1, w3, b3, gamma, beta, share, *saved = ctx.saved_tensors
        params = Parameters(w1, b1, w3, b3, gamma, beta)
        gradients: Any
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():

            def plain(x: Tensor, *params: Tensor) -> Tensor:
                return collapsed.emam(x, Parameters(*params), ctx.groups, ctx.eps)

            gradients = differentiable_gradients(plain, (x, *params, share), ctx.needs_input_grad, grad)
        else:
            flops.announce()
            _, backward = OPERATORS[ctx.backend]
            found = backward(grad, x, *params, *saved, ctx.groups, *if_given(share))
            gradients = of_given(found, (x, *params, share))
        return *gradients, None, None, None
