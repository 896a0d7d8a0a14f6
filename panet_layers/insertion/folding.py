"""Notices, at its next call, that a convolution beside an inserted layer has absorbed the normalisation after it.

What folds them (torch's `fuse_conv_bn_eval` and `fuse_modules`, torch.fx, ultralytics' `fuse`) takes for granted that
nothing lies between the two, and drops what was inserted after the normalisation.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.fusion import fuse_conv_bn_weights

from .refinement import NAME

KEY = f"{NAME}_folding"
CLOSE = 0.01  # of the largest value: a folded convolution may have been converted to float16 since


class Folding:
    """Forward hook of a convolution: warns, once, where the normalisation that follows has been folded into it.

    name: the location of the layer, for the message.
    norm: the normalisation that follows, if one does.
    weight, bias: what the convolution had at its last call.
    """

    def __init__(self, name: str, conv: nn.Module, norm: _BatchNorm | None) -> None:
        self.name, self.norm = name, norm
        self.weight, self.bias = conv._parameters.get("weight"), conv._parameters.get("bias")

    def __call__(self, conv: nn.Module, args: Any, output: Any) -> None:
        if torch.compiler.is_compiling():
            return
        weight, bias = conv._parameters.get("weight"), conv._parameters.get("bias")
        if weight is self.weight and bias is self.bias:
            return
        if type(weight) is not nn.Parameter or weight.is_meta:  # a replica, a shard or a functional call
            return
        if self._has_folded(conv, weight, bias):
            warnings.warn(
                f"a normalisation was folded into its convolution beside the layer inserted at {self.name!r}: the "
                "outputs are wrong, or that layer is lost; fold first, insert after, or insert after the whole block",
                stacklevel=2,
            )
        self.weight, self.bias = weight, bias

    @torch.no_grad()
    def _has_folded(self, conv: nn.Module, weight: Tensor, bias: Tensor | None) -> bool:
        """Return whether the convolution has a bias now and had none, or its values are those of folding."""
        if self.bias is None or bias is None:
            return bias is not None
        norm, transposed = self.norm, isinstance(conv, _ConvTransposeNd)
        if norm is None or norm.running_var is None or (transposed and conv.groups != 1):
            return False
        was = self.weight, self.bias, norm.running_mean, norm.running_var, norm.weight, norm.bias
        if self.weight is None or self.weight.shape != weight.shape or any(t is not None and t.is_meta for t in was):
            return False
        tensors: Any = [None if tensor is None else tensor.to(weight.device).float() for tensor in was]
        old, shift, mean, variance, scale, offset = tensors
        folded = fuse_conv_bn_weights(old, shift, mean, variance, norm.eps, scale, offset, transposed)
        largest = max(tensor.abs().max().item() for tensor in folded)
        distance = _distance((weight, bias), folded)
        return distance < min(_distance((weight, bias), (old, shift)), CLOSE * largest)


def notice_folding(layers: Mapping[nn.Module, str], normalised: Mapping[nn.Module, _BatchNorm]) -> None:
    """Add the hook to the convolutions that these layers are inserted at, or whose normalisation they are inserted at.

    layers: the modules with inserted layers, and their names.
    normalised: convolutions, and the normalisation that each one's output goes to.
    """
    for conv in dict.fromkeys((*layers, *normalised)):
        norm = normalised.get(conv)
        name = layers.get(conv) or (layers.get(norm) if norm is not None else None)
        if name and isinstance(conv, _ConvNd):
            hooks: dict[Any, Any] = conv._forward_hooks
            hooks.setdefault(KEY, Folding(name, conv, norm))


def ignore_folding(module: nn.Module) -> None:
    """Undo `notice_folding`."""
    hooks: dict[Any, Any] = module._forward_hooks
    hooks.pop(KEY, None)


def _distance(some: Any, others: Any) -> float:
    return max((a.float() - b.float()).abs().max().item() for a, b in zip(some, others))
