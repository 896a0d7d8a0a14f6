"""The layers by the paper's formulas, their parts called as modules: with hooks, as adapters, of other classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .checks import check_input
from .functional import in_full_precision, no_view
from .ops.emam import reference as emam_reference
from .ops.scam import reference as scam_reference
from .parts import described
from .subclasses import takes_subclasses


@takes_subclasses
def emam(x: Tensor, layer: Any) -> Tensor:
    """Return what an EMAM computes for x."""
    check_input(x, layer.channels, "EMAM")
    width = layer.channels // layer.groups
    conv1x1, conv3x3, norm = (_called(layer, name, width) for name in ("conv1x1", "conv3x3", "gn"))
    functions = {"conv1x1": conv1x1, "conv3x3": conv3x3, "norm": norm}
    return no_view(in_full_precision(emam_reference.attend, x, **functions, groups=layer.groups))


@takes_subclasses
def channel_attention(x: Tensor, layer: Any) -> Tensor:
    """Return what a ChannelAttention computes for x."""
    check_input(x, layer.channels, "ChannelAttention")
    fc1, fc2 = _called(layer, "fc1", None), _called(layer, "fc2", layer.channels)
    return in_full_precision(scam_reference.gate_channels, x, mlp=lambda pooled: fc2(fc1(pooled).relu()))


@takes_subclasses
def spatial_attention(x: Tensor, layer: Any) -> Tensor:
    """Return what a SpatialAttention computes for x."""
    check_input(x, None, "SpatialAttention")
    norm = None if layer.bn is None else _called(layer, "bn", 1)
    return in_full_precision(scam_reference.gate_pixels, x, conv=_called(layer, "conv", 1), norm=norm)


def _called(layer: nn.Module, name: str, channels: int | None) -> Callable[[Tensor], Tensor]:
    """Return a part as a function that computes in its parameters' dtype and returns its input's.

    What the part returns must have its input's shape with this number of channels (None: any). If it does not, or the
    part raises, the error names the part.
    """
    part = getattr(layer, name)
    if not isinstance(part, nn.Module):
        raise TypeError(f"{type(layer).__name__}.{name} is {part!r}; wanted a module from maps to maps")
    dtypes = [p.dtype for p in part.parameters() if p.is_floating_point()]

    def call(x: Tensor) -> Tensor:
        given = x.to(dtypes[0]) if dtypes else x
        if torch.compiler.is_compiling() or torch.jit.is_tracing():  # where comparing sizes would fix them
            return part(given).to(x.dtype)
        out = _call(layer, name, given)
        _check_output(layer, name, out, x, channels)
        return out.to(x.dtype)

    return call


def _call(layer: nn.Module, name: str, x: Tensor) -> Any:
    """Call a part, and name it in what it raises."""
    part = getattr(layer, name)
    elsewhere = {p.device for p in part.parameters()} - {x.device}
    try:
        return part(x) if x.is_meta or torch.device("meta") not in elsewhere else _call_loaded(part, x)
    except Exception as error:
        if elsewhere:
            where = f"with parameters on {', '.join(sorted(map(str, elsewhere)))} and its input on {x.device}"
            raise RuntimeError(f"{described(layer, name)}, {where}, raised {type(error).__name__}: {error}") from error
        if hasattr(error, "add_note"):  # from Python 3.11 on
            error.add_note(f"raised by {described(layer, name)}, called with a tensor of shape {tuple(x.shape)}")
        raise


def _call_loaded(part: nn.Module, x: Tensor) -> Any:
    """Call a part with parameters on meta; raise RuntimeError where neither its hooks nor its `forward` load them.

    torch's convolution returns unwritten memory then.
    """

    def check(module: nn.Module, args: Any) -> None:
        if "forward" not in vars(module) and any(p is not None and p.is_meta for p in module._parameters.values()):
            raise RuntimeError("a tensor on meta has no values; load the parameters' values")

    modules = (module for module in part.modules() if not isinstance(module, torch.jit.ScriptModule))
    handles = [module.register_forward_pre_hook(check) for module in modules]  # after the hooks that may load them
    try:
        return part(x)
    finally:
        for handle in handles:
            handle.remove()


def _check_output(layer: nn.Module, name: str, out: Any, x: Tensor, channels: int | None) -> None:
    """Raise TypeError, ValueError or RuntimeError where a part returned no tensor, another shape, another device."""
    if not isinstance(out, Tensor):
        raise TypeError(f"{described(layer, name)} returned a {type(out).__name__}; wanted a tensor")
    wanted = (x.shape[0], *out.shape[1:2]) if channels is None else (x.shape[0], channels)
    wanted = (*wanted, *x.shape[2:])
    if tuple(out.shape) != wanted:
        given = f"{tuple(out.shape)} for {tuple(x.shape)}"
        raise ValueError(f"{described(layer, name)} returned {given}; wanted {wanted}")
    if out.device != x.device:
        given = f"a tensor on {out.device} for one on {x.device}"
        raise RuntimeError(f"{described(layer, name)} returned {given}; move all to one device")
