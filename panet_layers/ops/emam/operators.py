"""EMAM's registered operators: schema, implementation and fake of each, and which backend runs which.

Exported programs refer to these names and schemas, so they stay.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import flops
from ..registration import register
from . import chunked, fused
from .tensors import Parameters, Saved, channels_last, empty_saved

_PARAMETERS = "Tensor w1, Tensor b1, Tensor w3, Tensor b3, Tensor gamma, Tensor beta"
_SAVED = "Tensor means, Tensor gates, Tensor mean, Tensor rstd, Tensor q, Tensor gate"
_OUTPUTS = "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
_FORWARD = f"(Tensor x, {_PARAMETERS}, int groups, float eps) -> {_OUTPUTS}"
_BACKWARD = f"(Tensor grad, Tensor x, {_PARAMETERS}, {_SAVED}, int groups) -> {_OUTPUTS}"


def _forward_fake(x: Tensor, params: Parameters, groups: int) -> tuple[Tensor, Saved]:
    return torch.empty_like(x), empty_saved(x, groups)


def _fused_forward_fake(x: Tensor, params: Parameters, groups: int) -> tuple[Tensor, Saved]:
    return torch.empty_like(x), empty_saved(x, groups, channels_last(x))


def _backward_fake(grad: Tensor, x: Tensor, params: Parameters) -> tuple[Tensor, Parameters]:
    return torch.empty_like(x), Parameters(*(p.new_empty(p.shape) for p in params))


register("emam_forward" + _FORWARD, chunked.forward, _forward_fake)
register("emam_backward" + _BACKWARD, chunked.backward, _backward_fake)
register("emam_fused_forward" + _FORWARD, fused.forward, _fused_forward_fake)
register("emam_fused_backward" + _BACKWARD, fused.backward, _backward_fake)

OPERATORS = {  # backend: forward, backward
    "collapsed": (torch.ops.panet_layers.emam_forward, torch.ops.panet_layers.emam_backward),
    "triton": (torch.ops.panet_layers.emam_fused_forward, torch.ops.panet_layers.emam_fused_backward),
}

for forward_and_backward in OPERATORS.values():
    flops.add_formulas(*forward_and_backward, flops.emam)
