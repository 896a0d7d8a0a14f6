"""The registered operators: schema, shape rule and implementation of each. Imported before anything is traced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .chunks import accumulation_dtype
from .emam import chunked as emam_chunked
from .scam import chunked as scam_chunked

_library = torch.library.Library("panet_layers", "DEF")
_EMAM_PARAMETERS = "Tensor w1, Tensor b1, Tensor w3, Tensor b3, Tensor gamma, Tensor beta"
_EMAM_SAVED = "Tensor means, Tensor gates, Tensor mean, Tensor rstd, Tensor q, Tensor gate"


def _register(schema: str, implementation: Callable, fake: Callable) -> None:
    """Define an operator that tracing sees as one opaque node; its inputs keep their strides under a compiler."""
    name = schema.split("(")[0]
    _library.define(schema, tags=(torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order))
    _library.impl(name, _plainly(implementation), "CompositeExplicitAutograd")
    torch.library.register_fake(f"panet_layers::{name}", fake, lib=_library)


def _plainly(implementation: Callable) -> Callable:
    """Without autograd and, inside autocast, in the precision that the implementation chose."""

    def run(x: Tensor, *args: Any) -> tuple[Tensor, ...]:
        device = x.device.type
        with torch.no_grad():
            if not torch.is_autocast_enabled(device):
                return implementation(x, *args)
            with torch.autocast(device, enabled=False):
                return implementation(x, *args)

    return run


def _contiguous_like(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


def _emam_forward(x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    *params, groups, eps = rest
    out, saved = emam_chunked.forward(x, emam_chunked.Parameters(*params), groups, eps)
    return out, *saved


def _emam_fused_forward(x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    from .emam import fused

    *params, groups, eps = rest
    out, saved = fused.forward(x, emam_chunked.Parameters(*params), groups, eps)
    return out, *saved


def _emam_forward_fake(x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    groups = rest[6]
    dtype = accumulation_dtype(x.dtype)
    saved = (x.new_empty(shape, dtype=dtype) for shape in emam_chunked.saved_shapes(x, groups))
    return torch.empty_like(x), *saved


def _emam_fused_forward_fake(x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    from .emam import fused

    return torch.empty_like(x), *fused.empty_saved(x, rest[6])


def _emam_backward(grad: Tensor, x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    params, saved, groups = rest[:6], rest[6:12], rest[12]
    dx, dparams = emam_chunked.backward(grad, x, emam_chunked.Parameters(*params), emam_chunked.Saved(*saved), groups)
    return dx, *dparams


def _emam_fused_backward(grad: Tensor, x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    from .emam import fused

    params, saved, groups = rest[:6], rest[6:12], rest[12]
    dx, dparams = fused.backward(grad, x, emam_chunked.Parameters(*params), emam_chunked.Saved(*saved), groups)
    return dx, *dparams


def _emam_backward_fake(grad: Tensor, x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return torch.empty_like(x), *(_contiguous_like(p) for p in rest[:6])


for _name, _forward, _forward_fake, _backward in (
    ("emam", _emam_forward, _emam_forward_fake, _emam_backward),
    ("emam_fused", _emam_fused_forward, _emam_fused_forward_fake, _emam_fused_backward),
):
    _register(
        f"{_name}_forward(Tensor x, {_EMAM_PARAMETERS}, int groups, float eps)"
        " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
        _forward,
        _forward_fake,
    )
    _register(
        f"{_name}_backward(Tensor grad, Tensor x, {_EMAM_PARAMETERS}, {_EMAM_SAVED}, int groups)"
        " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
        _backward,
        _emam_backward_fake,
    )


_SCAM_PARAMETERS = (
    "Tensor fc1, Tensor? fc1_bias, Tensor fc2, Tensor? fc2_bias, Tensor conv, Tensor? norm_weight, Tensor? norm_bias"
)
_SCAM_SAVED = "Tensor pooled, Tensor maps, Tensor logits, Tensor moments"


def _scam_forward(x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    params, (running_mean, running_var, batch_statistics, eps) = rest[:7], rest[7:]
    running = None if batch_statistics else (running_mean, running_var)
    out, saved = scam_chunked.forward(x, scam_chunked.Parameters(*params), running, eps)
    return out, *saved


def _scam_forward_fake(x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    dtype = accumulation_dtype(x.dtype)
    return torch.empty_like(x), *(x.new_empty(shape, dtype=dtype) for shape in scam_chunked.saved_shapes(x))


def _scam_backward(grad: Tensor, x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    params, saved, (batch_statistics, eps) = rest[:7], rest[7:11], rest[11:]
    dx, grads = scam_chunked.backward(
        grad, x, scam_chunked.Parameters(*params), scam_chunked.Saved(*saved), batch_statistics, eps
    )
    return dx, *(x.new_empty(0) if g is None else g for g in grads)


def _scam_backward_fake(grad: Tensor, x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return torch.empty_like(x), *(x.new_empty(0) if p is None else _contiguous_like(p) for p in rest[:7])


_register(
    f"scam_forward(Tensor x, {_SCAM_PARAMETERS}, Tensor? running_mean, Tensor? running_var, bool batch_statistics,"
    " float eps) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _scam_forward,
    _scam_forward_fake,
)
_register(
    f"scam_backward(Tensor grad, Tensor x, {_SCAM_PARAMETERS}, {_SCAM_SAVED}, bool batch_statistics, float eps)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _scam_backward,
    _scam_backward_fake,
)


_SCAM_FUSED_SAVED = (
    "Tensor pooled, Tensor top_pixel, Tensor hidden, Tensor gate, Tensor maps, Tensor top_channel, Tensor logits,"
    " Tensor moments"
)


def _scam_fused_forward(x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    from .scam import fused

    params, (running_mean, running_var, batch_statistics, eps) = rest[:7], rest[7:]
    running = None if batch_statistics else (running_mean, running_var)
    out, saved = fused.forward(x, scam_chunked.Parameters(*params), running, eps)
    return out, *saved


def _scam_fused_forward_fake(x: Tensor, fc1: Tensor, *_: Any) -> tuple[Tensor, ...]:
    from .scam import fused

    return torch.empty_like(x), *fused.empty_saved(x, fc1.shape[0])


def _scam_fused_backward(grad: Tensor, x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    from .scam import fused

    params, saved, (batch_statistics, eps) = rest[:7], rest[7:15], rest[15:]
    dx, grads = fused.backward(grad, x, scam_chunked.Parameters(*params), fused.Saved(*saved), batch_statistics, eps)
    return dx, *(x.new_empty(0) if g is None else g for g in grads)


_register(
    f"scam_fused_forward(Tensor x, {_SCAM_PARAMETERS}, Tensor? running_mean, Tensor? running_var,"
    " bool batch_statistics, float eps) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _scam_fused_forward,
    _scam_fused_forward_fake,
)
_register(
    f"scam_fused_backward(Tensor grad, Tensor x, {_SCAM_PARAMETERS}, {_SCAM_FUSED_SAVED}, bool batch_statistics,"
    " float eps) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _scam_fused_backward,
    _scam_backward_fake,
)
