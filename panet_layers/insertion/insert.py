"""Put attention layers into any model, and take them out again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from .costs import CostReport, Row, cost
from .models import check_model
from .observation import observe
from .places import Place, find_places
from .refinement import Refinement, attach, detach


@torch.inference_mode(False)  # parameters made in inference mode could never be trained
def insert_attention(
    model: nn.Module,
    at: str | Sequence[str],
    layer: Callable[[int], nn.Module],
    *,
    example_input: Any = None,
) -> CostReport:
    """Let a layer refine the outputs of modules of `model`, in place. Existing state_dict keys stay as they are.

    Args:
        model: any model; one of timm's needs no `example_input`.
        at: names of modules, as in `model.named_modules()`, or patterns, whose `*` ends at a dot (`"layer[34]"`,
            `"blocks.*.mlp"`), one or several; or "stages" for every feature stage that timm's `feature_info` names.
        layer: called with the channels of each place, gives the layer: `EMAM`, `partial(SCAM, reduction=8)`, or any
            module from (B, C, H, W) to the same.
        example_input: what the dry run calls the model with, as `model(x)`, `model(*tuple)` or `model(**dict)`; its
            first tensor of four dimensions is the images (B, C, H, W). Default: two black images of timm's size. Where
            maps are tokens, later images must have its proportions, and no tokens may be dropped.

    The dry run (once, in evaluation mode, without gradients) shows where the channels are. Outputs may be (B, C, H, W),
    (B, H, W, C) or tokens (B, N, C), where class and register tokens ahead of the map pass unrefined; of a list, tuple
    or mapping, the element that `feature_info` describes is refined, else the first map. What a module gives is refined
    each time that it is called, by one layer. The new parameters are called `<module>.inserted_attention.*` (those of a
    container's output lie at its last module) and have the model's dtype and device. A second call at the same place
    refines further.

    Returns a report: each place, its layout, and what the layer costs there for one image. Print it.

    Raises ValueError, and changes nothing, where a name matches no module, a module gives no feature map or is not
    called, shares its last module with another container or is TorchScript, its channels do not fit the layer, the
    layer changes a map's shape, or the model can't be run or is wrapped for distributed training already.
    """
    check_model(model, "insert")
    if isinstance(layer, nn.Module):
        raise ValueError(f"layer is called with the channels of each place, so give its class, not {layer!r}")
    places = find_places(model, at, observe(model, example_input))
    refinements = [_refinement(place, model, layer) for place in places]
    rows = [_row(place, refinement.layer) for place, refinement in zip(places, refinements)]
    attach([(place.module, refinement) for place, refinement in zip(places, refinements)])
    _forget_compiled(model)
    return CostReport(tuple(rows))


def remove_attention(model: nn.Module) -> None:
    """Take out everything that `insert_attention` put into `model`, in place: it is again what it was.

    Raises ValueError where the model is wrapped for distributed training, which waits for the layers' gradients.
    """
    check_model(model, "remove")
    for module in list(model.modules()):
        detach(module)
    _forget_compiled(model)


def _forget_compiled(model: nn.Module) -> None:
    """Have compiled code made anew: not every torch looks whether hooks have changed since."""
    if any("_orig_mod" in module._modules or module._compiled_call_impl for module in model.modules()):
        torch.compiler.reset()


def _refinement(place: Place, model: nn.Module, layer: Callable[[int], nn.Module]) -> Refinement:
    try:
        built = layer(place.layout.channels)
    except Exception as error:
        raise ValueError(f"no layer for {place.name!r}, a map of {place.layout.channels} channels: {error}") from error
    if not isinstance(built, nn.Module):
        raise ValueError(f"layer({place.layout.channels}) must be an nn.Module, got {built!r}")
    tensors = (*place.module.parameters(), *model.parameters())
    like = next((t for t in tensors if t.is_floating_point()), torch.zeros(()))
    return Refinement(built, place.layout, place.element).to(device=like.device, dtype=like.dtype).train(model.training)


def _row(place: Place, layer: nn.Module) -> Row:
    layout = place.layout
    shape = (layout.channels, layout.height, layout.width)
    try:
        return Row(place.name, str(layout), type(layer).__name__, cost(layer, shape).times(place.calls))
    except Exception as error:
        raise ValueError(f"the layer for {place.name!r} does not refine a map of {shape}: {error}") from error
