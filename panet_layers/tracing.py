"""How the layers appear in traced graphs: as plain formulas in an exported graph, as one node in torch.fx."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import _len_torch_dispatch_stack_pre_dispatch

from .compatibility import is_exporting


def exporting() -> bool:
    """Return whether an export or `torch.jit.trace` is active, whose graph may run without this package."""
    return is_exporting() or torch.jit.is_tracing()


def dispatched() -> bool:
    """Return whether a dispatch mode sees every operator, such as that of make_fx or of a FLOP counter."""
    return torch._C._len_torch_dispatch_stack() > 0 or _len_torch_dispatch_stack_pre_dispatch() > 0


def leaving_pytorch() -> bool:
    """Return whether the export's format (TorchScript, ONNX) cannot hold our registered operators."""
    return torch.jit.is_tracing() or torch.onnx.is_in_onnx_export()


def fx_leaf(forward: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    """Wrap a module's `forward` so that torch.fx does not trace into it: the graph calls the module, as torch.nn's."""

    @wraps(forward)
    def call(self: Any, x: Tensor) -> Tensor:
        if isinstance(x, fx.Proxy) and self is not x.tracer.root:
            return x.tracer.create_proxy("call_module", x.tracer.path_of_module(self), (x,), {})
        return forward(self, x)

    return call
