"""EMAM's registered operators: schema, fake and implementation of each. Importing this file registers them.

`emam_forward` and `emam_backward` run `chunked`; `emam_fused_forward` and `emam_fused_backward` run `fused`. Exported
programs refer to these names and schemas, so they stay.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

from ..registration import empty_contiguous, register
from . import chunked
from .tensors import Parameters, Saved, empty_saved, empty_saved_like_x

_PARAMETERS = "Tensor w1, Tensor b1, Tensor w3, Tensor b3, Tensor gamma, Tensor beta"
_SAVED = "Tensor means, Tensor gates, Tensor mean, Tensor rstd, Tensor q, Tensor gate"
_SEVEN = "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"


def _register(name: str, backend: Callable[[], ModuleType], empty_saved: Callable[[Tensor, int], Saved]) -> None:
    """Register `<name>_forward` and `<name>_backward` on top of the backend's `forward` and `backward`."""

    def forward(
        x: Tensor, w1: Tensor, b1: Tensor, w3: Tensor, b3: Tensor, gamma: Tensor, beta: Tensor, groups: int, eps: float
    ) -> tuple[Tensor, ...]:
        out, saved = backend().forward(x, Parameters(w1, b1, w3, b3, gamma, beta), groups, eps)
        return out, *saved

    def forward_fake(
        x: Tensor, w1: Tensor, b1: Tensor, w3: Tensor, b3: Tensor, gamma: Tensor, beta: Tensor, groups: int, eps: float
    ) -> tuple[Tensor, ...]:
        return torch.empty_like(x), *empty_saved(x, groups)

    def backward(
        grad: Tensor, x: Tensor, w1: Tensor, b1: Tensor, w3: Tensor, b3: Tensor, gamma: Tensor, beta: Tensor,
        means: Tensor, gates: Tensor, mean: Tensor, rstd: Tensor, q: Tensor, gate: Tensor, groups: int,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        params, saved = Parameters(w1, b1, w3, b3, gamma, beta), Saved(means, gates, mean, rstd, q, gate)
        dx, gradients = backend().backward(grad, x, params, saved, groups)
        return dx, *gradients

    def backward_fake(
        grad: Tensor, x: Tensor, w1: Tensor, b1: Tensor, w3: Tensor, b3: Tensor, gamma: Tensor, beta: Tensor,
        *_saved_and_groups: object,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        return torch.empty_like(x), *(empty_contiguous(p) for p in (w1, b1, w3, b3, gamma, beta))

    register(f"{name}_forward(Tensor x, {_PARAMETERS}, int groups, float eps) -> {_SEVEN}", forward, forward_fake)
    schema = f"{name}_backward(Tensor grad, Tensor x, {_PARAMETERS}, {_SAVED}, int groups) -> {_SEVEN}"
    register(schema, backward, backward_fake)


def _fused() -> ModuleType:
    from . import fused  # not at the top: it imports triton

    return fused


_register("emam", lambda: chunked, empty_saved)
_register("emam_fused", _fused, empty_saved_like_x)
