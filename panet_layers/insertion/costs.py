"""What a layer costs at a place, and the report that lists places and costs."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from ..backends import use_backend

BATCH = 2  # batch normalisation in training wants more than one value


class Cost(NamedTuple):
    """What a layer adds at its place.

    parameters: their number.
    macs: multiply-accumulates of convolutions and matrix products in one image's forward, by the paper's formulas (the
        fast backends compute fewer).
    activation_bytes: what one image's forward keeps for the backward: the layer's input, not its parameters.
    """

    parameters: int
    macs: int
    activation_bytes: int

    def times(self, calls: int) -> Cost:
        """The cost of several calls of the same layer."""
        return Cost(self.parameters, calls * self.macs, calls * self.activation_bytes)


class Row(NamedTuple):
    """A layer's place in a model, the map it sees there, its class, and its cost."""

    name: str
    map: str
    layer: str
    cost: Cost


class CostReport(NamedTuple):
    """Attention layers in a model, a row for each; printed, a table with the sums below."""

    rows: tuple[Row, ...]

    @property
    def total(self) -> Cost:
        """The sums over all rows."""
        return Cost(*(sum(row.cost[i] for row in self.rows) for i in range(len(Cost._fields))))

    def __str__(self) -> str:
        cells = [(row.name, row.map, row.layer, *_printed(row.cost)) for row in self.rows]
        lines = [
            ("place", "map", "layer", "parameters", "MACs", "kept"),
            *cells,
            ("total", "", "", *_printed(self.total)),
        ]
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        return "\n".join(
            "  ".join(
                cell.ljust(n) if i < 3 else cell.rjust(n) for i, (cell, n) in enumerate(zip(line, widths))
            ).rstrip()
            for line in lines
        )


def cost(layer: nn.Module, shape: tuple[int, ...]) -> Cost:
    """The cost of `layer` on an image's map of `shape` (C, H, W), counted on a copy; the MACs of EMAM and SCAM by the
    reference backend. Raises ValueError where the layer changes the map's shape or dtype.
    """
    from torch.utils.flop_counter import FlopCounterMode  # imports triton

    layer = copy.deepcopy(layer).train()
    parameters = list(layer.parameters())
    like = next((p for p in parameters if p.is_floating_point()), torch.zeros(()))
    x = torch.zeros(BATCH, *shape, device=like.device, dtype=like.dtype, requires_grad=True)
    for part in layer.modules():
        if hasattr(part, "backend"):
            part.backend = None  # type: ignore[assignment]
    with use_backend("auto"):  # one that was named may be for another device than the model's of now
        kept = _kept(layer, x, {p.untyped_storage()._cdata for p in parameters})
    with use_backend("reference"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        layer(x)
    return Cost(sum(p.numel() for p in parameters), counter.get_total_flops() // 2 // BATCH, kept // BATCH)


def _kept(layer: nn.Module, x: Tensor, parameters: set[int]) -> int:
    """Bytes of the storages that autograd keeps of the layer's forward, the parameters' aside."""
    kept: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    with torch.enable_grad(), saved_tensors_hooks(note, lambda tensor: tensor):
        out: Any = layer(x)
    if not isinstance(out, Tensor) or (out.shape, out.dtype) != (x.shape, x.dtype):
        made = f"{tuple(out.shape)} in {out.dtype}" if isinstance(out, Tensor) else type(out).__name__
        raise ValueError(f"{type(layer).__name__} made {made} of a map of {tuple(x.shape)} in {x.dtype}")
    return sum(tensor.untyped_storage().nbytes() for storage, tensor in kept.items() if storage not in parameters)


def _printed(cost: Cost) -> tuple[str, str, str]:
    return f"{cost.parameters:,}", f"{cost.macs / 1e6:,.2f} M", f"{cost.activation_bytes / 2**20:,.2f} MiB"
