"""What the layers are to whoever traces them: plain formulas in an exported graph, one node to torch.fx."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor, fx


def exporting() -> bool:
    """Inside `torch.export`, an ONNX export or `torch.jit.trace`: the graph may be run where this package is not."""
    return torch.compiler.is_exporting() or torch.jit.is_tracing()


def leaving_pytorch() -> bool:
    """Inside an export to a format that can hold none of our operators."""
    return torch.jit.is_tracing() or torch.onnx.is_in_onnx_export()


def fx_leaf(forward: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    """A module's `forward` that symbolic tracing leaves alone, as it does torch.nn's: the graph calls the module."""

    @wraps(forward)
    def call(self: Any, x: Tensor) -> Tensor:
        if isinstance(x, fx.Proxy) and self is not x.tracer.root:
            return x.tracer.create_proxy("call_module", x.tracer.path_of_module(self), (x,), {})
        return forward(self, x)

    return call
