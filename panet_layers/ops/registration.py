"""How an operator becomes `torch.ops.panet_layers.<name>`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_library = torch.library.Library("panet_layers", "DEF")


def register(schema: str, implementation: Callable, fake: Callable) -> None:
    """Define an operator that tracing sees as one opaque node; under a compiler its inputs keep their strides.

    `fake` returns empty outputs of the right shapes, dtypes and strides.
    """
    name = schema.split("(")[0]
    _library.define(schema, tags=(torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order))
    _library.impl(name, _without_autograd_and_autocast(implementation), "CompositeExplicitAutograd")
    torch.library.register_fake(f"panet_layers::{name}", fake, lib=_library)


def _without_autograd_and_autocast(implementation: Callable) -> Callable:
    """Wrap an implementation, which chooses its precision itself."""

    def run(x: Tensor, *args: Any) -> tuple[Tensor, ...]:
        device = x.device.type
        with torch.no_grad():
            if not torch.is_autocast_enabled(device):
                return implementation(x, *args)
            with torch.autocast(device, enabled=False):
                return implementation(x, *args)

    return run


def empty_contiguous(like: Tensor) -> Tensor:
    """Return an empty contiguous tensor of the same shape and dtype."""
    return torch.empty_like(like, memory_format=torch.contiguous_format)
