"""What the attention layers of a model cost, however they came into it."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ..emam import EMAM
from ..scam import SCAM, ChannelAttention, SpatialAttention
from .costs import Cost, CostReport, Row, cost
from .observation import dry_run
from .presence import check_presence
from .refinement import Refinement
from .share import value_of

LAYERS = (EMAM, SCAM, ChannelAttention, SpatialAttention)


def profile(model: nn.Module, example_input: Any = None) -> CostReport:
    """Return the cost of every EMAM, SCAM and inserted layer in `model`, by the same dry run as in `insert_attention`.

    Returns a report with a row per layer that ran: its name, its class, the map (C, H, W) of its first call, its
    parameters, for one image its MACs and the bytes that it keeps for the backward pass, and its share s in the output
    (0 at the start, 1 is the layer alone; it moves by about the learning rate a step at most, of Adam, so read it only
    after a long training). Print it. Scripted layers are left out.

    Raises ValueError where there is no input to run the model on, the model fails, or it runs none of its layers.
    """
    check_presence(model)
    layers, shares = _layers(model)
    maps: dict[nn.Module, list[tuple[int, ...]]] = {}

    def note(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        maps.setdefault(module, []).append(tuple((*args, *kwargs.values())[0].shape[1:]))

    with ExitStack() as hooks:
        for layer in layers:
            hooks.enter_context(layer.register_forward_pre_hook(note, with_kwargs=True))
        dry_run(model, example_input)
    if layers and not maps:
        raise ValueError(f"none of the model's attention layers ran in the dry run: {', '.join(layers.values())}")
    return CostReport(
        tuple(_row(name, layer, maps[layer], shares.get(layer)) for layer, name in layers.items() if layer in maps)
    )


def _row(name: str, layer: nn.Module, maps: list[tuple[int, ...]], share: Tensor | None) -> Row:
    first = "x".join(map(str, maps[0]))
    return Row(name, first, type(layer).__name__, _cost(layer, maps, share), value_of(share))


def _cost(layer: nn.Module, maps: list[tuple[int, ...]], share: Tensor | None) -> Cost:
    """Return the cost of all calls of the layer, given the map of each."""
    calls = [cost(layer, shape, share) for shape in maps]
    return Cost(calls[0].parameters, sum(c.macs for c in calls), sum(c.activation_bytes for c in calls))


def _layers(model: nn.Module) -> tuple[dict[nn.Module, str], dict[nn.Module, Tensor]]:
    """Return the outermost attention layers in the model with their names, and the shares of those that have one."""
    found: dict[nn.Module, str] = {}
    shares: dict[nn.Module, Tensor] = {}
    inner: set[nn.Module] = set()
    for name, module in model.named_modules():
        chosen = module.layer if isinstance(module, Refinement) else module if isinstance(module, LAYERS) else None
        if chosen is not None and chosen not in inner and not isinstance(chosen, torch.jit.ScriptModule):
            found.setdefault(chosen, f"{name}.layer" if isinstance(module, Refinement) else name)
            inner.update(chosen.modules())
            if isinstance(module, Refinement) and module.share is not None:
                shares.setdefault(chosen, module.share)
    return found, shares
