"""Which parts of a layer are read as weights; the others must be called as the modules they are.

The layers compute with the weights of their convolutions, linear layers and normalisations, and call none of them. That
is what the published modules compute only while a part is as it was made: a hook, an adapter, a bias that a fusion
added or another padding would be ignored. Nothing reports such a change to the layer, so each call looks for it.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from .ops import flops
from .subclasses import has_own_functions

EVERY_PART = "every part"  # where torch has global module hooks, or a class of parts another `forward`

_CONVOLVES, _CONVOLVES_WITH = nn.Conv2d.forward, nn.Conv2d._conv_forward
_MAPS, _NORMALISES, _NORMALISES_BATCH = nn.Linear.forward, nn.GroupNorm.forward, nn.BatchNorm2d.forward


def all_called() -> bool:
    """Return whether every part must be called: torch has global module hooks, or tools have changed its classes.

    The global hooks of a FLOP counter only follow the names of modules.
    """
    if (
        torch_module._global_backward_hooks
        or torch_module._global_backward_pre_hooks
        or nn.Conv2d.forward is not _CONVOLVES
        or nn.Conv2d._conv_forward is not _CONVOLVES_WITH
        or nn.Linear.forward is not _MAPS
        or nn.GroupNorm.forward is not _NORMALISES
        or nn.BatchNorm2d.forward is not _NORMALISES_BATCH
    ):
        return True
    before, after = torch_module._global_forward_pre_hooks, torch_module._global_forward_hooks
    return bool(before or after) and not flops.are_counting((*before.values(), *after.values()))


def is_unchanged(part: Any, kind: type[nn.Module]) -> bool:
    """Return whether a part is exactly of this class, without hooks or a forward of its own."""
    return (
        (type(part) is kind or _is_proxy(part, kind))
        and not (part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks)
        and "forward" not in part.__dict__
    )


def is_read(part: Any, kind: type[nn.Module]) -> bool:
    """Return whether a part with a weight is unchanged, and the weight is a plain tensor."""
    if not is_unchanged(part, kind):
        return False
    # The parameter first: `part.weight` is slower, and also finds the tensors that other tools set.
    return type(part._parameters.get("weight")) is nn.Parameter or _is_plain(getattr(part, "weight", None))


def weight_and_bias(part: Any) -> tuple[Any, Any]:
    """Return a part's weight and bias: quicker than as attributes, where they are parameters."""
    own = part._parameters
    weight, bias = own.get("weight"), own.get("bias", part)
    return part.weight if weight is None else weight, part.bias if bias is part else bias


def is_convolution(conv: Any, inputs: int, outputs: int, size: int | None, bias: bool) -> bool:
    """Return whether a convolution is read: it must have zeros around maps that keep their size, and this form.

    inputs, outputs: channels. size: of the kernel; None for any odd one.
    """
    if not is_read(conv, nn.Conv2d):
        return False
    size = size or conv.kernel_size[0] | 1
    return (
        conv.kernel_size == (size, size)
        and conv.padding == (size // 2, size // 2)
        and conv.padding_mode == "zeros"
        and conv.stride == (1, 1)
        and conv.dilation == (1, 1)
        and conv.groups == 1
        and conv.in_channels == inputs
        and conv.out_channels == outputs
        and (conv._parameters.get("bias", conv) is not None) is bias
        and "_conv_forward" not in conv.__dict__
    )


def is_channel_norm(norm: Any, channels: int) -> bool:
    """Return whether a group normalisation is read: it must have one channel in a group, scale and shift."""
    return is_read(norm, nn.GroupNorm) and norm.num_groups == norm.num_channels == channels and _is_affine(norm)


def is_batch_norm(norm: Any) -> bool:
    """Return whether a batch normalisation is read: it must have one channel, scale and shift. None is read as none."""
    return norm is None or (is_read(norm, nn.BatchNorm2d) and norm.num_features == 1 and _is_affine(norm))


def described(layer: nn.Module, name: str) -> str:
    """Return a part's full name, class and settings, for an error: torch.nn and torch.ao.nn share names of classes."""
    part = dict(layer.named_modules()).get(name)
    if part is None:
        return f"{type(layer).__name__}'s {name}"
    hooks = ", with hooks" if part._forward_hooks or part._forward_pre_hooks else ""
    path = f"{type(layer).__name__}.{name}, " if name else ""
    return f"{path}{type(part).__module__}.{type(part).__qualname__}({part.extra_repr()}){hooks}"


def _is_affine(norm: Any) -> bool:
    # By default not None: replicas and some tools keep tensors elsewhere.
    return norm._parameters.get("weight", norm) is not None and norm._parameters.get("bias", norm) is not None


def _is_plain(weight: object) -> bool:
    """Return whether torch's operations on this tensor are the plain ones; not those of a quantised or sharded one."""
    if type(weight) is Tensor or not isinstance(weight, Tensor):
        return True
    return not (is_traceable_wrapper_subclass(weight) or has_own_functions(weight))


def _is_proxy(part: Any, kind: type[nn.Module]) -> bool:
    """Return whether torch.export, which replaces modules that are used twice by proxies, has done so to a part."""
    return hasattr(type(part), "get_base") and type(part).__bases__[-1] is kind
