"""Insert attention layers into any model, and remove them again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from .changeable import check_changeable
from .costs import CostReport, Row, cost, counted_already
from .folding import ignore_folding, notice_folding
from .locations import Location, find_locations
from .observation import observe
from .presence import check_presence, unwatch, watch
from .refinement import Refinement, attach, detach
from .share import check_start, value_of


@torch.inference_mode(False)  # parameters created in inference mode could never be trained
def insert_attention(
    model: nn.Module,
    at: str | Sequence[str],
    layer: Callable[[int], nn.Module],
    *,
    example_input: Any = None,
    start: str = "identity",
) -> CostReport:
    """Insert layers that refine the outputs of modules of `model`, in place; existing state_dict keys do not change.

    Args:
        model: any model; models of timm need no `example_input`.
        at: the locations: names of modules, as in `model.named_modules()`, or patterns, whose `*` ends at a dot
            (`"layer[34]"`, `"blocks.*.mlp"`), one or several; or "stages" for every feature stage that timm's
            `feature_info` names.
        layer: called with the number of channels at each location, returns the layer: `EMAM`, `partial(SCAM,
            reduction=8)`, or any module from (B, C, H, W) to the same shape.
        example_input: what the dry run calls the model with, as `model(x)`, `model(*tuple)` or `model(**dict)`; its
            first tensor of four dimensions is the images (B, C, H, W). Default: two black images of timm's size. Where
            maps are tokens, later images must have the same proportions, and no tokens may be dropped.
        start: "identity" mixes the layer in: the output is lerp(x, layer(x), s), where s, one number for each layer, is
            learned and starts at 0. So the model first returns what it returned before, bit for bit (compiled or
            exported: where the layer's output is finite). The first step of a training changes s, later ones the layer
            too. "layer" is the layer alone, without s.

    The dry run (once, in evaluation mode, without gradients) finds the feature maps. An output may be (B, C, H, W),
    (B, H, W, C) or tokens (B, N, C), where class and register tokens before the map stay as they are. Of a list, tuple
    or mapping, the element that `feature_info` describes is refined, else the first map. A module that is called
    several times is refined each time, by one layer. The new parameters are called `<module>.inserted_attention.*`
    (those of a container are stored in its last module), s is `...share`; they have the model's dtype and device. A
    state_dict with a layer and without its s loads as s = 1, the layer alone. A second call for the same location
    refines further.

    Later calls of the model, unless compiled or exported, warn of layers that no longer run, and of a normalisation
    folded into its convolution beside a layer: fold before inserting.

    Returns a report: each location, its layout, what the layer costs there for one image, and s. Print it.

    Raises TypeError where `model` is no module. Raises ValueError, and changes nothing, where `start` is neither of the
    two, a name matches no module, a module returns no feature map or is not called, shares its last module with another
    container or is TorchScript, its channels do not fit the layer, the layer changes a map's shape (or, with
    `start="identity"`, its input in place), or the model can't be run or is already wrapped for distributed training.
    """
    check_changeable(model, "insert")
    if isinstance(layer, nn.Module):
        raise ValueError(f"layer is called with the channels at each location, so give its class, not {layer!r}")
    check_start(start)
    check_presence(model)
    seen = observe(model, example_input)
    locations = find_locations(at, seen)
    refinements = [(location.module, _refinement(location, model, layer, start)) for location in locations]
    counted: set[nn.Parameter] = set()
    rows = [_row(location, refinement, counted) for location, (_, refinement) in zip(locations, refinements)]
    attach(refinements)
    names = {location.module: location.name for location in locations}
    notice_folding(names, seen.normalised)
    watch(model, names, seen.normalised)
    _forget_compiled(model)
    return CostReport(tuple(rows))


def remove_attention(model: nn.Module) -> None:
    """Remove everything that `insert_attention` added to `model`, in place, which restores it exactly.

    Raises ValueError where the model is wrapped for distributed training, which waits for the layers' gradients.
    """
    check_changeable(model, "remove")
    check_presence(model)
    for module in list(model.modules()):
        unwatch(module)
        ignore_folding(module)
        detach(module)
    _forget_compiled(model)


def _forget_compiled(model: nn.Module) -> None:
    """Have torch compile the model again: some versions of torch do not check whether hooks have changed."""
    if any("_orig_mod" in module._modules or module._compiled_call_impl for module in model.modules()):
        torch.compiler.reset()


def _refinement(location: Location, model: nn.Module, layer: Callable[[int], nn.Module], start: str) -> Refinement:
    layout = location.layout
    try:
        built = layer(layout.channels)
    except Exception as error:
        raise ValueError(f"no layer for {location.name!r}, a map of {layout.channels} channels: {error}") from error
    if not isinstance(built, nn.Module):
        raise ValueError(f"layer({layout.channels}) must return an nn.Module, got {built!r}")
    tensors = (*location.module.parameters(), *model.parameters())
    like = next((t for t in tensors if t.is_floating_point()), torch.zeros(()))
    refinement = Refinement(built, layout, location.element, start)
    return refinement.to(device=like.device, dtype=like.dtype).train(model.training)


def _row(location: Location, refinement: Refinement, counted: set[nn.Parameter]) -> Row:
    layout, layer, share = location.layout, refinement.layer, refinement.share
    shape = (layout.channels, layout.height, layout.width)
    try:
        own = cost(layer, shape, share).times(location.calls)
        own = own._replace(parameters=own.parameters - counted_already(layer, counted))
        return Row(location.name, str(layout), type(layer).__name__, own, value_of(share))
    except Exception as error:
        raise ValueError(f"the layer for {location.name!r} does not refine a map of {shape}: {error}") from error
