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
NEARER = 0.5  # of the distance to the old bias: that may be one training step older, and the new one in float16
PROPORTIONAL = 0.1  # of a weight's change: what is not a factor for each channel


class Folding:
    """Forward hook of a convolution: warns, once, where the normalisation that follows has been folded into it.

    It does not hold the normalisation, which a copy of the convolution alone would take along.

    name: the location of the layer, for the message.
    weight, bias: what the convolution had at its last call.
    shift: the values of the bias then, which may be overwritten in place.
    """

    def __init__(self, name: str, conv: nn.Module) -> None:
        self.name = name
        self.note(conv)

    def note(self, conv: nn.Module) -> None:
        """Note the convolution's parameters as they are now."""
        self.weight, self.bias = conv._parameters.get("weight"), conv._parameters.get("bias")
        self.version = _version(self.bias)
        self.shift = None if self.bias is None else self.bias.detach().clone()

    def __call__(self, conv: nn.Module, args: Any, output: Any) -> None:
        if torch.compiler.is_compiling():
            return
        weight, bias = conv._parameters.get("weight"), conv._parameters.get("bias")
        if weight is self.weight and bias is self.bias and _version(bias) == self.version:
            return
        if type(weight) is not nn.Parameter or weight.is_meta:  # a replica, a shard or a functional call
            return
        if self._has_folded(conv, weight, bias):
            self._warn()
        self.note(conv)

    def check_absorbed(self, conv: nn.Module, norm: _BatchNorm) -> None:
        """Warn where the convolution's bias is that of a folding of `norm`, which the model does not hold any more."""
        bias = conv._parameters.get("bias")
        if bias is not None and (self.shift is None or _is_folded(bias, self.shift, norm)):
            self._warn()
            self.note(conv)

    @torch.no_grad()
    def _has_folded(self, conv: nn.Module, weight: Tensor, bias: Tensor | None) -> bool:
        """Return whether the changes are those of a folding: a factor for each channel of the weight, another bias."""
        if bias is None or bias is self.bias or self.weight is None or self.weight.shape != weight.shape:
            return False
        appeared = self.bias is None and bool(bias.any())
        if weight is self.weight or self.weight.is_meta:  # its old values are not known
            return appeared
        old, new = (_rows(conv, tensor.to(weight.device)) for tensor in (self.weight, weight))
        if old.shape[1] == 1:  # any change is a factor for each channel
            return appeared
        factors = (old * new).sum(1, keepdim=True) / old.square().sum(1, keepdim=True)
        change = (new - old).norm()
        return bool(change > 0) and bool((new - factors.nan_to_num() * old).norm() < PROPORTIONAL * change)

    def _warn(self) -> None:
        warnings.warn(
            f"a normalisation was folded into its convolution beside the layer inserted at {self.name!r}: the outputs "
            "are wrong, or that layer is lost; fold first and insert after",
            stacklevel=3,
        )


def notice_folding(layers: Mapping[nn.Module, str], normalised: Mapping[nn.Module, _BatchNorm]) -> None:
    """Add the hook to the convolutions that these layers are inserted at, or whose normalisation they are inserted at.

    layers: the modules with inserted layers, and their names.
    normalised: convolutions, and the normalisation that each one's output goes to.
    """
    for conv in dict.fromkeys((*layers, *normalised)):
        norm = normalised.get(conv)
        name = layers.get(conv) or (layers.get(norm) if norm is not None else None)
        if name and isinstance(conv, _ConvNd):
            _hooks(conv).setdefault(KEY, Folding(name, conv))


def check_absorbed(conv: nn.Module, norm: _BatchNorm) -> None:
    """Warn where a normalisation that the model does not hold any more has been folded into the convolution before."""
    if folding := _hooks(conv).get(KEY):
        folding.check_absorbed(conv, norm)


def ignore_folding(module: nn.Module) -> None:
    """Undo `notice_folding`."""
    _hooks(module).pop(KEY, None)


@torch.no_grad()
def _is_folded(bias: Tensor, old: Tensor, norm: _BatchNorm) -> bool:
    """Return whether a bias is much nearer to what folding the normalisation makes of the old one than to that."""
    tensors = (bias, old, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    if norm.running_mean is None or any(tensor is not None and tensor.is_meta for tensor in tensors):
        return False
    on_device: Any = [None if t is None else t.to(bias.device).float() for t in tensors]
    now, before, mean, variance, scale, offset = on_device
    _, folded = fuse_conv_bn_weights(mean, before, mean, variance, norm.eps, scale, offset)
    return _distance(now, folded) < NEARER * _distance(now, before)


def _rows(conv: nn.Module, weight: Tensor) -> Tensor:
    """Return a convolution's weight as a matrix with a row for each channel of the output."""
    if isinstance(conv, _ConvTransposeNd):
        weight = weight.unflatten(0, (conv.groups, -1)).transpose(1, 2).flatten(0, 1)
    return weight.float().flatten(1)


def _version(bias: Tensor | None) -> int | None:
    return None if bias is None or bias.is_inference() else bias._version


def _distance(some: Tensor, others: Tensor) -> float:
    return (some - others).abs().max().item()


def _hooks(module: nn.Module) -> dict[Any, Any]:
    return module._forward_hooks  # by torch's annotation its keys are numbers
