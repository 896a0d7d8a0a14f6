"""SCAM's registered operators: schema, implementation and fake of each, and which backend runs which.

Exported programs refer to these names and schemas, so they stay.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import flops
from ..registration import directly, register
from . import chunked, fused, native
from .tensors import (
    ChunkedSaved,
    FusedSaved,
    NativeSaved,
    Parameters,
    empty_chunked_saved,
    empty_fused_saved,
    empty_native_saved,
)

_PARAMETERS = (
    "Tensor fc1, Tensor? fc1_bias, Tensor fc2, Tensor? fc2_bias, Tensor conv, Tensor? norm_weight, Tensor? norm_bias"
)
_SETTINGS = "bool batch_statistics, float eps"
_FORWARD = f"(Tensor x, {_PARAMETERS}, Tensor? running_mean, Tensor? running_var, {_SETTINGS})"
_SHARE = ", Tensor? share=None"
_CHUNKED_SAVED = "Tensor pooled, Tensor maps, Tensor logits, Tensor moments"
_FUSED_SAVED = (
    "Tensor pooled, Tensor top_pixel, Tensor hidden, Tensor gate, Tensor maps, Tensor top_channel, Tensor logits,"
    " Tensor moments"
)
_NATIVE_SAVED = "Tensor saved, Tensor moments"


def _backward_schema(saved: str, outputs: int = 8, more: str = "") -> str:
    return f"(Tensor grad, Tensor x, {_PARAMETERS}, {saved}, {_SETTINGS}{more}){_tensors(outputs)}"


def _tensors(outputs: int) -> str:
    return f" -> ({', '.join(['Tensor'] * outputs)})"


def _forward_fake(x: Tensor) -> tuple[Tensor, ChunkedSaved]:
    return torch.empty_like(x), empty_chunked_saved(x)


def _fused_forward_fake(x: Tensor, params: Parameters) -> tuple[Tensor, FusedSaved]:
    return torch.empty_like(x), empty_fused_saved(x, params)


def _native_forward_fake(x: Tensor, params: Parameters) -> tuple[Tensor, NativeSaved]:
    return torch.empty_like(x), empty_native_saved(x, params)


def _backward_fake(grad: Tensor, x: Tensor, params: Parameters) -> tuple[Tensor, Parameters]:
    return torch.empty_like(x), Parameters._make(None if p is None else p.new_empty(p.shape) for p in params)


def _native_backward_fake(
    grad: Tensor,
    x: Tensor,
    params: Parameters,
    saved: NativeSaved,
    batch_statistics: bool,
    eps: float,
    share: Tensor | None = None,
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    return torch.empty_like(x), tuple(None if p is None else p.new_empty(p.shape) for p in (*params, share))


register("scam_forward" + _FORWARD + _tensors(5), chunked.forward, _forward_fake)
register("scam_backward" + _backward_schema(_CHUNKED_SAVED), chunked.backward, _backward_fake)
register("scam_fused_forward" + _FORWARD + _tensors(9), fused.forward, _fused_forward_fake)
register("scam_fused_backward" + _backward_schema(_FUSED_SAVED), fused.backward, _backward_fake)
register("scam_native_forward" + _FORWARD[:-1] + _SHARE + ")" + _tensors(3), native.forward, _native_forward_fake)
register("scam_native_backward" + _backward_schema(_NATIVE_SAVED, 9, _SHARE), native.backward, _native_backward_fake)

_ops = torch.ops.panet_layers
OPERATORS: dict[str, tuple[Any, Any]] = {  # backend: forward, backward
    "collapsed": (_ops.scam_forward, _ops.scam_backward),
    "native": (
        directly(_ops.scam_native_forward, native.forward),
        directly(_ops.scam_native_backward, native.backward),
    ),
    "triton": (_ops.scam_fused_forward, _ops.scam_fused_backward),
}

for kind in ("", "native_", "fused_"):
    flops.add_formulas(getattr(_ops, f"scam_{kind}forward"), getattr(_ops, f"scam_{kind}backward"), flops.scam)
