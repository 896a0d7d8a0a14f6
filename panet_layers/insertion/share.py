"""How an inserted layer comes in from nothing: lerp(x, layer(x), s), with one learnable share s that starts at 0."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from ..compatibility import transformed
from ..emam import EMAM
from ..ops.precision import accumulation_dtype
from ..parts import is_unchanged
from ..scam import SCAM
from ..tracing import dispatched, exporting

STARTS = ("identity", "layer")


def check_start(start: str) -> None:
    """Raise ValueError for anything but one of `STARTS`."""
    if start not in STARTS:
        raise ValueError(f"start must be 'identity' or 'layer', got {start!r}")


def new_share() -> nn.Parameter:
    """Return a share of 0: one number, in one dimension, as FSDP wants it."""
    return nn.Parameter(torch.zeros(1))


def value_of(share: Tensor | None) -> float | None:
    """Return the share as a number; None if there is no share, or if it is on the device "meta"."""
    if share is None or share.is_meta:
        return None
    whole: Any = share.full_tensor() if hasattr(share, "full_tensor") else share  # of a sharded model
    return whole.detach().item()


def shared(x: Tensor, layer: nn.Module, share: Tensor) -> Tensor:
    """Return lerp(x, layer(x), share), like x in shape and dtype.

    Where the share is 0 this is x, bit for bit, whatever the layer returns. Compiled, exported and
    traced graphs hold a plain lerp: there it is x (or 0.0 for -0.0) if the layer's output is finite.
    """
    if type(x) is not Tensor or torch.compiler.is_compiling() or transformed() or exporting() or dispatched():
        return torch.lerp(x, layer(x).to(x.dtype), share.to(x.dtype))
    if not torch.is_grad_enabled() and _keeps_its_output(layer):
        out = layer(x)
        return _lerp(x, out, share, out)
    forked = torch.is_grad_enabled() and x.requires_grad
    straight, inward = _Fork.apply(x, share) if forked else (x, x)
    return _Join.apply(straight, inward, layer(inward).to(x.dtype), share)


def _keeps_its_output(layer: nn.Module) -> bool:
    """Return whether nothing but its caller gets the layer's output, which may then be written over.

    Hooks of the layer or of all modules get it, those of a part called as a module too, and a `forward` around its own.
    """
    for kind in (EMAM, SCAM):
        if is_unchanged(layer, kind):
            return not layer.called_part()  # type: ignore[operator]
    return False


class _Fork(Function):
    """Return x twice, for `_Join` and for the layer, and add their gradients in one sweep over the map.

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
        of_share = _product(grad, x, out).to(share.dtype).view(1) if ctx.needs_input_grad[3] else None
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
