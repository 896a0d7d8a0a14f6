"""What an insertion adds to a model: a layer on one map of a module's output, run by a forward hook of the module.

A hook and a child leave every existing name as it was: the plain model's checkpoints load, and no code that uses the
model sees another module. The hook is a plain function that finds the layer in the module it is called for, so that
copies, pickles and replicas run their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..tracing import fx_leaf
from .layouts import Layout
from .observation import Element

NAME = "inserted_attention"
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_PLAIN = (nn.Sequential.forward, nn.ModuleList.forward)


class Refinement(nn.Module):
    """`layer` on a map that lies in a module's output by `layout`.

    element: which element of the output it is (an index, or a key of a mapping), or None where the output is the tensor
        itself.
    """

    order: Tensor | None
    position: Tensor | None

    def __init__(self, layer: nn.Module, layout: Layout, element: Element) -> None:
        super().__init__()
        self.layer, self.layout, self.element = layer, layout, element
        order = None if layout.order is None else torch.tensor(layout.order)
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("position", None if order is None else order.argsort(), persistent=False)

    @fx_leaf
    def forward(self, output: Any) -> Any:
        """The module's output, refined."""
        if self.element is None:
            return self._refined(output)
        refined = self._refined(output[self.element])
        if isinstance(output, Mapping):
            return type(output)({**output, self.element: refined})  # type: ignore[call-arg]
        parts = list(output)
        parts[self.element] = refined
        return type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)

    def _refined(self, x: Tensor) -> Tensor:
        if self.layout.kind == "NCHW":
            return self.layer(x)
        if self.layout.kind == "NHWC":
            return self.layer(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self._refined_tokens(x)

    def _refined_tokens(self, x: Tensor) -> Tensor:
        prefix = self.layout.prefix
        tokens = x[:, prefix:] if prefix else x
        size = self.layout.grid(tokens.shape[1])
        tokens = tokens if self.order is None else tokens[:, self.order]
        out = self.layer(tokens.transpose(1, 2).unflatten(2, size)).flatten(2).transpose(1, 2)
        out = out if self.position is None else out[:, self.position]
        return torch.cat([x[:, :prefix], out], dim=1) if prefix else out

    def extra_repr(self) -> str:
        return str(self.layout) + ("" if self.element is None else f", element={self.element!r}")


class Refinements(nn.ModuleList):
    """The refinements of a module's output. Run as a child, as by a module that runs all it has, it does nothing."""

    def forward(self, x: Any) -> Any:
        return x


def attach(module: nn.Module, refinement: Refinement) -> None:
    """Let `module`'s output be refined, after the refinements that it has."""
    holder, name = holder_of(module)
    if not hasattr(holder, name):
        holder.add_module(name, Refinements())
    getattr(holder, name).append(refinement)
    if not any(hook is refine for hook in module._forward_hooks.values()):
        module.register_forward_hook(refine)


def detach(module: nn.Module) -> None:
    """Take every refinement from `module` that it runs or keeps for another."""
    for key in [key for key, hook in module._forward_hooks.items() if hook is refine]:
        del module._forward_hooks[key]
    ours = [name for name, child in module._modules.items() if name.startswith(NAME) and isinstance(child, Refinements)]
    for name in ours:
        delattr(module, name)


def refine(module: nn.Module, args: Any, output: Any) -> Any:
    """The forward hook of a module with refinements."""
    holder, name = holder_of(module)
    if name not in holder._modules:
        raise RuntimeError(
            f"{type(holder).__name__} has lost its inserted layer, as when a conversion put a new module in its place; "
            "convert first, insert after"
        )
    for refinement in getattr(holder, name):
        output = refinement(output)
    return output


def output_of(module: nn.Module) -> nn.Module:
    """The module whose output is `module`'s: a Sequential's and a ModuleList's is their last module's.

    Many models run over such a container's modules instead of calling it.
    """
    while isinstance(module, (nn.Sequential, nn.ModuleList)) and type(module).forward in _PLAIN and _own(module):
        module = _own(module)[-1]
    return module


def holder_of(module: nn.Module) -> tuple[nn.Module, str]:
    """The module that keeps `module`'s refinements, and under which name.

    A container might run, or run over, a child that it does not know; so its last module keeps them.
    """
    name = NAME
    while isinstance(module, _CONTAINERS) and _own(module):
        module, name = _own(module)[-1], name + "_of_parent"
    return module, name


def _own(module: nn.Module) -> list[nn.Module]:
    """The children of a container that no insertion put there: an empty one keeps its refinements itself."""
    return [child for child in module.children() if not isinstance(child, Refinements)]
