"""Batch normalisation folded into the convolution before it: the same outputs for less work, for inference only."""

from __future__ import annotations

import copy
from typing import Any

from timm.models.xception import SeparableConv2d
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..checks import check_module
from ..parts import is_read, is_unchanged

# The children of the encoder and its blocks, by name: a convolution and the normalisation of its output.
_NAMES = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"), ("conv4", "bn4"), ("skip", "skipbn"))


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """Return a copy of a detector in eval mode, whose convolutions include the batch normalisations that follow them.

    The outputs differ by rounding only. The copy cannot be trained, and its state_dict has other names: save the model.
    A convolution or normalisation with hooks, or replaced by another module, stays as it is. Raises TypeError for what
    is no module.
    """
    check_module(model)
    folded = copy.deepcopy(model).eval()
    for parent in folded.modules():
        names = list(parent._modules)
        for first, second in zip(names, names[1:]) if isinstance(parent, nn.Sequential) else _NAMES:
            _fold(parent, first, second)
    return folded


def _fold(parent: nn.Module, first: str, second: str) -> None:
    """Fold the child `second` into the child `first`, where these are a batch normalisation and a convolution."""
    owner: Any = parent
    norm: Any = parent._modules.get(second)
    if is_unchanged(parent._modules.get(first), SeparableConv2d):
        owner, first = parent._modules[first], "pointwise"
    convolution: Any = owner._modules.get(first)
    if is_read(convolution, nn.Conv2d) and is_read(norm, nn.BatchNorm2d) and norm.running_var is not None:
        setattr(owner, first, fuse_conv_bn_eval(convolution, norm))
        setattr(parent, second, nn.Identity().eval())
