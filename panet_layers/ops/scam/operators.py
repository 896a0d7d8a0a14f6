"""SCAM's registered operators: schema, fake and implementation of each. Importing this file registers them.

`scam_forward` and `scam_backward` run `chunked`; `scam_fused_forward` and `scam_fused_backward` run `fused`. Exported
programs refer to these names and schemas, so they stay.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

from ..registration import empty_contiguous, register
from . import chunked
from .tensors import ChunkedSaved, FusedSaved, Parameters, empty_chunked_saved, empty_fused_saved

_PARAMETERS = (
    "Tensor fc1, Tensor? fc1_bias, Tensor fc2, Tensor? fc2_bias, Tensor conv, Tensor? norm_weight, Tensor? norm_bias"
)
_RUNNING = "Tensor? running_mean, Tensor? running_var"
_SETTINGS = "bool batch_statistics, float eps"


def _register_forward(name: str, backend: Callable[[], ModuleType], empty_saved: Callable, outputs: int) -> None:
    """Register `<name>_forward` on top of the backend's `forward`."""

    def forward(
        x: Tensor, fc1: Tensor, fc1_bias: Tensor | None, fc2: Tensor, fc2_bias: Tensor | None, conv: Tensor,
        norm_weight: Tensor | None, norm_bias: Tensor | None, running_mean: Tensor | None, running_var: Tensor | None,
        batch_statistics: bool, eps: float,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        params = Parameters(fc1, fc1_bias, fc2, fc2_bias, conv, norm_weight, norm_bias)
        out, saved = backend().forward(x, params, None if batch_statistics else (running_mean, running_var), eps)
        return out, *saved

    def fake(x: Tensor, fc1: Tensor, *_unused: object) -> tuple[Tensor, ...]:
        return torch.empty_like(x), *empty_saved(x, fc1.shape[0])

    results = ", ".join(["Tensor"] * outputs)
    register(f"{name}_forward(Tensor x, {_PARAMETERS}, {_RUNNING}, {_SETTINGS}) -> ({results})", forward, fake)


def _register_backward(name: str, saved: str, backward: Callable[..., tuple[Tensor, ...]]) -> None:
    """Register `<name>_backward`, whose schema names what the forward saved."""
    schema = f"{name}_backward(Tensor grad, Tensor x, {_PARAMETERS}, {saved}, {_SETTINGS})"
    register(f"{schema} -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)", backward, _backward_fake)


def _backward(
    grad: Tensor, x: Tensor, fc1: Tensor, fc1_bias: Tensor | None, fc2: Tensor, fc2_bias: Tensor | None, conv: Tensor,
    norm_weight: Tensor | None, norm_bias: Tensor | None,
    pooled: Tensor, maps: Tensor, logits: Tensor, moments: Tensor, batch_statistics: bool, eps: float,
) -> tuple[Tensor, ...]:  # fmt: skip
    params = Parameters(fc1, fc1_bias, fc2, fc2_bias, conv, norm_weight, norm_bias)
    saved = ChunkedSaved(pooled, maps, logits, moments)
    return _without_none(*chunked.backward(grad, x, params, saved, batch_statistics, eps))


def _fused_backward(
    grad: Tensor, x: Tensor, fc1: Tensor, fc1_bias: Tensor | None, fc2: Tensor, fc2_bias: Tensor | None, conv: Tensor,
    norm_weight: Tensor | None, norm_bias: Tensor | None,
    pooled: Tensor, top_pixel: Tensor, hidden: Tensor, gate: Tensor, maps: Tensor, top_channel: Tensor, logits: Tensor,
    moments: Tensor, batch_statistics: bool, eps: float,
) -> tuple[Tensor, ...]:  # fmt: skip
    params = Parameters(fc1, fc1_bias, fc2, fc2_bias, conv, norm_weight, norm_bias)
    saved = FusedSaved(pooled, top_pixel, hidden, gate, maps, top_channel, logits, moments)
    return _without_none(*_fused().backward(grad, x, params, saved, batch_statistics, eps))


def _backward_fake(
    grad: Tensor, x: Tensor, fc1: Tensor, fc1_bias: Tensor | None, fc2: Tensor, fc2_bias: Tensor | None, conv: Tensor,
    norm_weight: Tensor | None, norm_bias: Tensor | None, *_saved_and_settings: object,
) -> tuple[Tensor, ...]:  # fmt: skip
    params = Parameters(fc1, fc1_bias, fc2, fc2_bias, conv, norm_weight, norm_bias)
    return _without_none(torch.empty_like(x), Parameters._make(p if p is None else empty_contiguous(p) for p in params))


def _without_none(dx: Tensor, gradients: Parameters) -> tuple[Tensor, ...]:
    """An operator returns tensors only: an empty one for each parameter that is None."""
    return dx, *(dx.new_empty(0) if gradient is None else gradient for gradient in gradients)


def _fused() -> ModuleType:
    from . import fused  # not at the top: it imports triton

    return fused


_register_forward("scam", lambda: chunked, lambda x, hidden: empty_chunked_saved(x), outputs=5)
_register_backward("scam", "Tensor pooled, Tensor maps, Tensor logits, Tensor moments", _backward)
_register_forward("scam_fused", _fused, empty_fused_saved, outputs=9)
_register_backward(
    "scam_fused",
    "Tensor pooled, Tensor top_pixel, Tensor hidden, Tensor gate, Tensor maps, Tensor top_channel, Tensor logits,"
    " Tensor moments",
    _fused_backward,
)
