"""lerp(x, out, share): an output mixed in, by one learnable number, with derivatives of few passes over the map."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .compatibility import transformed
from .ops.precision import accumulation_dtype
from .tracing import dispatched, exporting


def traced(x: Tensor) -> bool:
    """Return whether a graph is traced, torch.func is active, or x is not a plain tensor."""
    return type(x) is not Tensor or torch.compiler.is_compiling() or transformed() or exporting() or dispatched()


def mixed(x: Tensor, function: Callable[[Tensor], Tensor], share: Tensor, own: bool = False) -> Tensor:
    """Return lerp(x, function(x), share), like x in shape and dtype.

    Where the share is 0 this is x, bit for bit, whatever the function returns. Compiled, exported and traced graphs
    hold a plain lerp: there it is x (or 0.0 for -0.0) if the function's output is finite.

    own: whether nothing but this call gets the function's output, which may then be written over.
    """
    if traced(x):
        return torch.lerp(x, function(x).to(x.dtype), share.to(x.dtype))
    if own and not torch.is_grad_enabled():
        out = function(x)
        return _lerp(x, out, share, out)
    forked = torch.is_grad_enabled() and x.requires_grad
    straight, inward = _Fork.apply(x, share) if forked else (x, x)
    return _Join.apply(straight, inward, function(inward).to(x.dtype), share)


class _Fork(Function):
    """Return x twice, for `_Join` and for the function, and add their gradients in one sweep over the map.

    Autograd's derivative of lerp would write (1 - share) * gradient to memory first. So `_Join` returns its gradient as
    it is, and the factor is applied here.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(share)
        return x.view_as(x), x.view_as(x)

    @staticmethod
    def backward(ctx: Any, straight: Tensor, inward: Tensor) -> tuple[Tensor, None]:
        (share,) = ctx.saved_tensors
        if (number := _number(share)) is not None:
            return torch.add(inward, straight, alpha=1 - number), None
        return torch.addcmul(inward, straight, (1 - share).to(straight.dtype)), None


class _Join(Function):
    """Return lerp(x, out, share). Its gradient for `straight`, which is x, still needs the factor 1 - share.

    So second derivatives, which have this factor, do not reach x by way of `straight`.
    """

    @staticmethod
    def forward(ctx: Any, straight: Tensor, x: Tensor, out: Tensor, share: Tensor) -> Tensor:
        ctx.save_for_backward(x, out, share)
        return _lerp(x, out, share)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor | None, Tensor | None]:
        x, out, share = ctx.saved_tensors
        number = _number(share)
        of_out = grad * (share.to(grad.dtype) if number is None else number) if ctx.needs_input_grad[2] else None
        of_share = _product(grad, x, out).to(share.dtype).view(share.shape) if ctx.needs_input_grad[3] else None
        return grad, None, of_out, of_share


def _lerp(x: Tensor, out: Tensor, share: Tensor, into: Tensor | None = None) -> Tensor:
    """Return lerp(x, out, share), in a new tensor or in `into`, which saves memory that is not in a cache."""
    number = _number(share)
    if number is None:
        return torch.where(share == 0, x, torch.lerp(x, out, share.to(x.dtype), out=into), out=into)
    if number:
        return torch.lerp(x, out, number, out=into)
    return x.clone() if into is None else into.copy_(x)


def _number(share: Tensor) -> float | None:
    """Return the share as a number where this is faster: on a CPU, outside second derivatives and traced graphs."""
    return None if torch.is_grad_enabled() or share.device.type != "cpu" or dispatched() else share.item()


def _product(grad: Tensor, x: Tensor, out: Tensor) -> Tensor:
    """Return the sum of grad * (out - x)."""
    if torch.is_grad_enabled() or accumulation_dtype(x.dtype) != x.dtype:
        dtype = accumulation_dtype(x.dtype)
        return ((out.to(dtype) - x.to(dtype)) * grad).sum()
    order = sorted(range(x.dim()), key=x.stride, reverse=True)  # as x is in memory: a view, where the others are so too
    grad, x, out = (tensor.permute(order).reshape(-1) for tensor in (grad, x, out))
    return torch.dot(grad, out) - torch.dot(grad, x)
