"""A layer in the blocks of a timm network, by the argument that the network's family has for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import is_dataclass, replace
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import nn

try:
    import timm
    from timm.models import model_entrypoint
    from timm.models.resnet import ResNet
except ImportError as error:
    raise ImportError(f"timm can't be imported: {error}; install it with pip install timm") from error

__all__ = ["attn_layer"]

BUILDER = "build_model_with_cfg"  # timm's function that every family's networks come from


def attn_layer(model: str, layer: Callable[[int], nn.Module]) -> dict[str, Any]:
    """Return the options with which `timm.create_model(model, **options)` builds the layer into its blocks.

    Args:
        model: timm's name of a network, with or without a tag.
        layer: called with a number of channels, returns the layer: `EMAM`, `partial(SCAM, reduction=8)`, any module
            from (B, C, H, W) to the same shape. It takes the place of the block's own attention, if there is one, and
            is moved to the device and dtype that timm builds the network with.

    Where a family gives only some of its blocks attention, such as those of some stages, only these get the layer.
    ResNet, Res2Net and SKNet take it in `block_args`, ByobNet, ByoaNet and NFNet as fields of their configuration, and
    CSPNet in that of its stages.

    Raises ValueError where timm has no such network, or builds it without this layer, or the layer does not fit, and
    TypeError where `model` is no name; `panet_layers.insert_attention` works for every network of timm.
    """
    if not isinstance(model, str):
        raise TypeError(f"model must be timm's name of a network, such as 'resnet18', got {_described(model)}")
    if isinstance(layer, nn.Module) or not callable(layer):
        raise ValueError(f"layer is called with the channels of each block, so give its class, not {_described(layer)}")
    name = model.partition(".")[0]
    if not timm.is_model(name):
        raise ValueError(f"timm {timm.__version__} has no network {model!r}; timm.list_models() names them")
    options = _options(name, layer)
    _check_built(name, options, layer)
    return options


def _options(name: str, layer: Callable[[int], nn.Module]) -> dict[str, Any]:
    network, given = _asked_for(name)
    made = partial(_made, layer)
    config = given.get("model_cfg")
    stages = getattr(config, "stages", None)
    if network is not None and issubclass(network, ResNet):
        return {"block_args": {**(given.get("block_args") or {}), "attn_layer": made}}
    if is_dataclass(config) and hasattr(config, "attn_layer"):
        return {"attn_layer": made, "attn_kwargs": {}}  # some configurations hold arguments of their own attention
    if is_dataclass(stages) and not isinstance(stages, type) and hasattr(stages, "attn_layer"):
        return {"stages": replace(stages, attn_layer=made, attn_kwargs=None)}
    raise ValueError(f"timm's {name} has no argument for a layer in its blocks; use panet_layers.insert_attention")


def _made(
    layer: Callable[[int], nn.Module], channels: int, *, device: Any = None, dtype: Any = None, **_: Any
) -> nn.Module:
    """Return the layer where timm wants it; what else a block passes, such as its activation, is not for this layer."""
    made = layer(channels)
    if not isinstance(made, nn.Module):
        raise TypeError(f"the layer for {channels} channels must be a module, got {made!r}")
    return made.to(device=device, dtype=dtype)


def _described(value: object) -> str:
    """Return a value for an error; of a module only the class, since its text has many lines."""
    return f"a module, {type(value).__name__}" if isinstance(value, nn.Module) else repr(value)


def _check_built(name: str, options: dict[str, Any], layer: Callable[[int], nn.Module]) -> None:
    """Build the network without memory, and raise ValueError where it has no such layer."""
    advice = "use panet_layers.insert_attention"
    built: list[nn.Module] = []

    def counted(channels: int) -> nn.Module:
        built.append(layer(channels))
        return built[-1]

    try:
        with torch.device("meta"):
            timm.create_model(name, **_options(name, counted))
    except Exception as error:
        raise ValueError(
            f"timm can't build {name} with the layer in its blocks: {error or repr(error)}; {advice}"
        ) from error
    if not built:
        raise ValueError(f"timm builds {name} without a layer in its blocks; {advice}")


def _asked_for(name: str) -> tuple[type[nn.Module] | None, dict[str, Any]]:
    """Return the class and options that a network's function asks timm's builder for; or None and {}."""
    asked: list[tuple[type[nn.Module], dict[str, Any]]] = []

    def note(network: type[nn.Module], *_: Any, **options: Any) -> nn.Module:
        asked.append((network, options))
        return nn.Module()

    entry = model_entrypoint(name)
    around = dict(entry.__globals__)
    helpers = [k for k, v in around.items() if isinstance(v, FunctionType) and BUILDER in v.__code__.co_names]
    if not {BUILDER, *helpers} & {*entry.__code__.co_names}:
        return None, {}
    around |= {BUILDER: note, **{key: _within(around[key], around) for key in helpers}}
    _within(entry, around)()
    return asked[0] if asked else (None, {})


def _within(function: Callable[..., Any], names: dict[str, Any]) -> Callable[..., Any]:
    """Return a copy of the function that finds these global names."""
    assert isinstance(function, FunctionType)
    copied = FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
    copied.__kwdefaults__ = function.__kwdefaults__
    return copied
