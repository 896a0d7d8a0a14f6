"""SCAM as one step of the autograd graph: the registered operators, forward and backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .. import flops
from ..registration import if_given, of_given, recorded
from ..second_derivatives import differentiable_gradients
from . import reference
from .operators import OPERATORS
from .tensors import Parameters, Running


def scam(
    x: Tensor, params: Parameters, norm: nn.BatchNorm2d | None, backend: str, share: Tensor | None = None
) -> Tensor:
    """Return what the reference's `scam` returns, by the backend's operators. With a share, lerp(x, that, share).

    First derivatives are hand-written; higher ones go through the reference. In training the statistics of `norm` move.
    Of the backends, "native" takes a share.
    """
    flops.announce()
    batch_statistics = norm is not None and (norm.training or norm.running_mean is None)
    running = Running(None, None) if norm is None or batch_statistics else Running(norm.running_mean, norm.running_var)
    arguments = (*running, batch_statistics, 1.0 if norm is None else norm.eps)
    if recorded(x, *params, share):
        out, moments = _SCAM.apply(x, *params, share, *arguments, backend)
    else:
        forward, _ = OPERATORS[backend]
        out, *_, moments = forward(x, *params, *arguments, *if_given(share))
    if norm is not None and norm.training and norm.track_running_stats:
        _update_running(norm, moments, x.shape[0] * x.shape[2] * x.shape[3])
    return out


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
        norm_weight: Tensor | None, norm_bias: Tensor | None, share: Tensor | None, running_mean: Tensor | None,
        running_var: Tensor | None, batch_statistics: bool, eps: float, backend: str,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        ctx.batch_statistics, ctx.eps, ctx.backend = batch_statistics, eps, backend
        params = Parameters(fc1, fc1_bias, fc2, fc2_bias, conv, norm_weight, norm_bias)
        forward, _ = OPERATORS[backend]
        out, *saved = forward(x, *params, running_mean, running_var, batch_statistics, eps, *if_given(share))
        ctx.save_for_backward(x, *params, share, running_mean, running_var, *saved)
        moments = saved[-1].clone()
        ctx.mark_non_differentiable(moments)
        return out, moments

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _moments: Tensor) -> tuple[Tensor | None, ...]:
        x, *others = ctx.saved_tensors
        params, (share, mean, variance, *saved) = Parameters(*others[:7]), others[7:]
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

            gradients = differentiable_gradients(plain, (x, *params, share), ctx.needs_input_grad, grad)
        else:
            flops.announce()
            _, backward = OPERATORS[ctx.backend]
            found = backward(grad, x, *params, *saved, ctx.batch_statistics, ctx.eps, *if_given(share))
            gradients = of_given(found, (x, *params, share))
        return *gradients, None, None, None, None, None
