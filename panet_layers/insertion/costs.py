"""What a layer costs on one feature map, and the report that lists layers with their locations and costs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode

from ..backends import use_backend
from .share import shared

BATCH = 2  # batch normalisation in training mode needs more than one value


class Cost(NamedTuple):
    """What a layer adds to a model.

    parameters: their number.
    macs: multiply-accumulates of convolutions and matrix products in the forward pass of one image, by the paper's
        formulas (the fast backends compute fewer).
    activation_bytes: memory that the forward pass of one image keeps for the backward pass, without parameters.
    """

    parameters: int
    macs: int
    activation_bytes: int

    def times(self, calls: int) -> Cost:
        """Return the cost of several calls of the same layer."""
        return Cost(self.parameters, calls * self.macs, calls * self.activation_bytes)


class Row(NamedTuple):
    """A layer's location in a model, the map it sees there, its class, its cost, and its share in the output, s."""

    name: str
    map: str
    layer: str
    cost: Cost
    share: float | None = None


class CostReport(NamedTuple):
    """The attention layers of a model, one row per layer. Print it for a table with totals.

    The column s is in it where layers were inserted with `start="identity"`. It starts at 0 and moves by about the
    learning rate a step at most (of Adam), so read it only after a long training.
    """

    rows: tuple[Row, ...]

    @property
    def total(self) -> Cost:
        """Return the sums over all rows."""
        return Cost(*(sum(row.cost[i] for row in self.rows) for i in range(len(Cost._fields))))

    def __str__(self) -> str:
        lines: list[tuple[str, ...]] = [
            ("location", "map", "layer", "parameters", "MACs", "kept", "s"),
            *((row.name, row.map, row.layer, *_printed(row.cost), _printed_share(row.share)) for row in self.rows),
            ("total", "", "", *_printed(self.total), ""),
        ]
        if all(row.share is None for row in self.rows):
            lines = [line[:-1] for line in lines]
        widths = [max(map(len, column)) for column in zip(*lines)]
        template = "  ".join(f"{{:{'<' if i < 3 else '>'}{width}}}" for i, width in enumerate(widths))
        return "\n".join(template.format(*line).rstrip() for line in lines)


def cost(layer: nn.Module, shape: tuple[int, ...], share: Tensor | None = None) -> Cost:
    """Return the cost of `layer` on one image's map of `shape` (C, H, W), measured on a copy.

    share: of the layer in the output, as in `Refinement`: one parameter, and the layer's output may be kept too.

    The MACs of EMAM and SCAM are those of the reference backend. Raises ValueError where the layer changes the map's
    shape or dtype or, where it has a share, its input in place.
    """
    from torch.utils.flop_counter import FlopCounterMode, _FlopCounterMode  # imports triton

    layer = copied(layer).train()
    parameters = list(layer.parameters())
    like = next((p for p in parameters if p.is_floating_point()), torch.zeros(()))
    x = torch.zeros(BATCH, *shape, device=like.device, dtype=like.dtype, requires_grad=True)
    for part in layer.modules():
        if hasattr(part, "backend"):
            part.backend = None  # type: ignore[assignment]
    with use_backend("auto"):  # the layer's own backend may need a device that the model is not on yet
        _check_output(layer, x, share)
        call: Callable[[Tensor], Tensor] = layer
        if share is not None:
            parameters.append(nn.Parameter(x.new_zeros(1)))  # not the share itself, which may be sharded
            call = partial(shared, layer=layer, share=parameters[-1])
        kept = _kept(call, x, {p.untyped_storage()._cdata for p in parameters})
    counter = FlopCounterMode(display=False)
    # Only the part that counts: the rest hooks all modules, and fails at views made where no gradient is recorded.
    with use_backend("reference"), torch.no_grad(), _FlopCounterMode(counter):
        layer(x.detach())
    return Cost(sum(p.numel() for p in parameters), counter.get_total_flops() // 2 // BATCH, kept // BATCH)


def counted_already(layer: nn.Module, counted: set[nn.Parameter]) -> int:
    """Return how many of the layer's parameters are in `counted`, which gets the others: a layer may serve twice."""
    own = set(layer.parameters())
    again = sum(parameter.numel() for parameter in own & counted)
    counted |= own
    return again


def copied(module: nn.Module) -> nn.Module:
    """Return a deep copy of a module, which may hold tensors that operations returned, such as a pruned weight."""
    with _Detaching():
        return copy.deepcopy(module)


class _Detaching(TorchFunctionMode):
    """Copies of tensors that operations returned are detached; torch refuses to copy them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            return args[0].detach().clone().requires_grad_()
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def _check_output(layer: nn.Module, x: Tensor, share: Tensor | None) -> None:
    """Raise ValueError where the layer returns no map like x or, where it has a share, changes its input in place."""
    given = x.clone()
    out: Any = layer(given)
    if not isinstance(out, Tensor) or (out.shape, out.dtype) != (x.shape, x.dtype):
        returned = f"{tuple(out.shape)} in {out.dtype}" if isinstance(out, Tensor) else type(out).__name__
        wanted = f"{tuple(x.shape)} in {x.dtype}"
        raise ValueError(f"{type(layer).__name__} returned {returned} for {wanted}; it must keep shape and dtype")
    if share is not None and given._version:
        raise ValueError(
            f'{type(layer).__name__} changes its input in place, of which start="identity" needs the values; use '
            'start="layer"'
        )


def _kept(layer: Callable[[Tensor], Tensor], x: Tensor, parameters: set[int]) -> int:
    """Return the bytes that autograd keeps of the layer's forward pass, without those of its parameters."""
    kept: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    with torch.enable_grad(), saved_tensors_hooks(note, lambda tensor: tensor):
        layer(x.clone())  # of a leaf, autograd refuses changes in place
    return sum(tensor.untyped_storage().nbytes() for storage, tensor in kept.items() if storage not in parameters)


def _printed_share(share: float | None) -> str:
    return "" if share is None else f"{share:.3f}"


def _printed(cost: Cost) -> tuple[str, str, str]:
    return f"{cost.parameters:,}", f"{cost.macs / 1e6:,.2f} M", f"{cost.activation_bytes / 2**20:,.2f} MiB"
