"""What the attention layers of a model cost, however they came into it."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import nn

from ..checks import check_module
from ..emam import EMAM
from ..scam import SCAM, ChannelAttention, SpatialAttention
from .costs import Cost, CostReport, Row, cost, counted_already
from .observation import dry_run
from .presence import check_presence
from .refinement import Refinement
from .share import value_of

LAYERS = (EMAM, SCAM, ChannelAttention, SpatialAttention)


class Use(NamedTuple):
    """An attention layer, and the refinement that calls it; None where the layer was not inserted."""

    layer: nn.Module
    refinement: Refinement | None


def profile(model: nn.Module, example_input: Any = None) -> CostReport:
    """Return the cost of every EMAM, SCAM and inserted layer in `model`, by the same dry run as in `insert_attention`.

    Returns a report with a row per layer that ran: its name, its class, the map (C, H, W) of its first call, its
    parameters, for one image its MACs and the bytes that it keeps for the backward pass, and its share s in the output
    (0 at the start, 1 is the layer alone; it moves by about the learning rate a step at most, of Adam, so read it only
    after a long training). Print it. Scripted layers are left out. A layer that was inserted at several locations has a
    row for each; its parameters are counted in the first.

    Raises TypeError where `model` is no module, ValueError where there is no input to run it on, it fails, or it runs
    none of its layers.
    """
    check_module(model)
    check_presence(model)
    uses = _uses(model)
    maps: dict[Use, list[tuple[int, ...]]] = {}
    running: list[Refinement] = []

    def note(layer: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        by = running[-1] if running and running[-1].layer is layer else None
        maps.setdefault(Use(layer, by), []).append(tuple((*args, *kwargs.values())[0].shape[1:]))

    with ExitStack() as hooks:
        for layer in dict.fromkeys(use.layer for use in uses):
            hooks.enter_context(layer.register_forward_pre_hook(note, with_kwargs=True))
        for refinement in (use.refinement for use in uses):
            if refinement is not None:
                hooks.enter_context(refinement.register_forward_pre_hook(lambda module, _: running.append(module)))
                hooks.enter_context(refinement.register_forward_hook(lambda *_: running.pop() and None))
        dry_run(model, example_input)
    if uses and not maps:
        raise ValueError(f"none of the model's attention layers ran in the dry run: {', '.join(uses.values())}")
    counted: set[nn.Parameter] = set()
    return CostReport(tuple(_row(name, use, maps[use], counted) for use, name in uses.items() if use in maps))


def _row(name: str, use: Use, maps: list[tuple[int, ...]], counted: set[nn.Parameter]) -> Row:
    """Return the row of a layer, given the map of each call, and the parameters that other rows have."""
    share = None if use.refinement is None else use.refinement.share
    calls = [cost(use.layer, shape, share) for shape in maps]
    parameters = calls[0].parameters - counted_already(use.layer, counted)
    total = Cost(parameters, sum(call.macs for call in calls), sum(call.activation_bytes for call in calls))
    return Row(name, "x".join(map(str, maps[0])), type(use.layer).__name__, total, value_of(share))


def _uses(model: nn.Module) -> dict[Use, str]:
    """Return the outermost attention layers in the model, each with its name at each location."""
    found: dict[Use, str] = {}
    outermost: str | None = None
    for name, module in model.named_modules(remove_duplicate=False):
        if outermost is not None and (not outermost or name.startswith(f"{outermost}.")):
            continue
        if isinstance(module, Refinement):
            use, own = Use(module.layer, module), f"{name}.layer"
        elif isinstance(module, LAYERS):
            use, own = Use(module, None), name
        else:
            continue
        if not isinstance(use.layer, torch.jit.ScriptModule):
            outermost = name
            found.setdefault(use, own)
    return found
