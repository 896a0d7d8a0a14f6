"""EMAM's registered operators: schema, implementation and fake of each, and which backend runs which.

Exported programs refer to these names and schemas, so they stay.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import flops
from ..registration import directly, register
from . import chunked, fused, gpu, native
from .cuda import backward as cuda_backward
from .cuda import forward as cuda
from .tensors import Parameters, Saved, channels_last, empty_saved

_PARAMETERS = "Tensor w1, Tensor b1, Tensor w3, Tensor b3, Tensor gamma, Tensor beta"
_SAVED = "Tensor means, Tensor gates, Tensor mean, Tensor rstd, Tensor q, Tensor gate"
_OUTPUTS = "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
_FORWARD = f"(Tensor x, {_PARAMETERS}, int groups, float eps) -> {_OUTPUTS}"
_BACKWARD = f"(Tensor grad, Tensor x, {_PARAMETERS}, {_SAVED}, int groups) -> {_OUTPUTS}"

_NATIVE_FORWARD = f"(Tensor x, {_PARAMETERS}, int groups, float eps, Tensor? share=None) -> (Tensor, Tensor)"
_NATIVE_BACKWARD = (
    f"(Tensor grad, Tensor x, {_PARAMETERS}, Tensor statistics, int groups, Tensor? share=None)"
    f" -> ({', '.join(['Tensor'] * 8)})"
)


def _forward_fake(x: Tensor, params: Parameters, groups: int) -> tuple[Tensor, Saved]:
    return torch.empty_like(x), empty_saved(x, groups)


def _fused_forward_fake(x: Tensor, params: Parameters, groups: int) -> tuple[Tensor, Saved]:
    return torch.empty_like(x), empty_saved(x, groups, channels_last(x))


def _native_forward_fake(x: Tensor, params: Parameters, groups: int) -> tuple[Tensor, native.NativeSaved]:
    return torch.empty_like(x), native.empty_native_saved(x, groups)


def _backward_fake(grad: Tensor, x: Tensor, params: Parameters) -> tuple[Tensor, Parameters]:
    return torch.empty_like(x), Parameters(*(p.new_empty(p.shape) for p in params))


def _native_backward_fake(
    grad: Tensor, x: Tensor, params: Parameters, saved: native.NativeSaved, groups: int, share: Tensor | None = None
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    return torch.empty_like(x), tuple(None if p is None else p.new_empty(p.shape) for p in (*params, share))


register("emam_forward" + _FORWARD, chunked.forward, _forward_fake)
register("emam_backward" + _BACKWARD, chunked.backward, _backward_fake)
register("emam_native_forward" + _NATIVE_FORWARD, native.forward, _native_forward_fake)
register("emam_native_backward" + _NATIVE_BACKWARD, native.backward, _native_backward_fake)
register("emam_fused_forward" + _FORWARD, fused.forward, _fused_forward_fake)
register("emam_fused_backward" + _BACKWARD, fused.backward, _backward_fake)
register("emam_cuda_forward" + _FORWARD, cuda.forward, _forward_fake)
register("emam_gpu_forward" + _FORWARD, gpu.forward, _forward_fake)
register("emam_cuda_backward" + _BACKWARD, cuda_backward.backward, _backward_fake)
register("emam_gpu_backward" + _BACKWARD, gpu.backward, _backward_fake)

_ops = torch.ops.panet_layers
OPERATORS: dict[str, tuple[Any, Any]] = {  # backend: forward, backward
    "collapsed": (_ops.emam_forward, _ops.emam_backward),
    "native": (
        directly(_ops.emam_native_forward, native.forward),
        directly(_ops.emam_native_backward, native.backward),
    ),
    "triton": (_ops.emam_fused_forward, _ops.emam_fused_backward),
    "cuda": (_ops.emam_cuda_forward, _ops.emam_cuda_backward),
    "cuda or triton": (_ops.emam_gpu_forward, _ops.emam_gpu_backward),
}

for kind in ("", "native_", "fused_", "cuda_", "gpu_"):
    flops.add_formulas(getattr(_ops, f"emam_{kind}forward"), getattr(_ops, f"emam_{kind}backward"), flops.emam)
