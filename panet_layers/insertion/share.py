"""How an inserted layer comes in from nothing: lerp(x, layer(x), s), with one learnable share s that starts at 0."""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from ..emam import EMAM
from ..mixing import mixed, traced
from ..parts import is_unchanged
from ..scam import SCAM

STARTS = ("identity", "layer")


def check_start(start: str) -> None:
    """Raise ValueError for anything but one of `STARTS`."""
    if start not in STARTS:
        raise ValueError(f"start must be 'identity' or 'layer', got {start!r}")


def new_share() -> nn.Parameter:
    """Return a share of 0: one number, in one dimension, as FSDP wants it."""
    return nn.Parameter(torch.zeros(1))


def value_of(share: Tensor | None) -> float | None:
    """Return the share as a number; None if there is no share, or if it is on the device "meta"."""
    if share is None or share.is_meta:
        return None
    whole: Any = share.full_tensor() if hasattr(share, "full_tensor") else share  # of a sharded model
    return whole.detach().item()


def shared(x: Tensor, layer: nn.Module, share: Tensor) -> Tensor:
    """Return lerp(x, layer(x), share), like x in shape and dtype.

    Where the share is 0 this is x, bit for bit, whatever the layer returns. Compiled, exported and traced graphs hold a
    plain lerp: there it is x (or 0.0 for -0.0) if the layer's output is finite.
    """
    if not traced(x) and _is_as_made(layer):
        return layer.mixed(x, share)
    return mixed(x, layer, share)


def _is_as_made(layer: nn.Module) -> TypeGuard[EMAM | SCAM]:
    """Return whether this is a layer of ours, and nothing but its caller gets its output.

    Hooks of the layer or of all modules get it, those of a part called as a module too, and a `forward` around its own.
    """
    for kind in (EMAM, SCAM):
        if is_unchanged(layer, kind):
            return layer._compiled_call_impl is None and not layer.called_part()  # type: ignore[operator]
    return False
