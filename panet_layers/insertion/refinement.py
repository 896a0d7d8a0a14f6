"""What an insertion adds to a model: a layer on one map of a module's output, run by a forward hook of the module.

A hook and a child leave every existing name as it was: the plain model's checkpoints load, and no code that uses the
model sees another module. The hook is a plain function that finds the layer in the module it is called for, so that
copies, pickles and replicas run their own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
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
        if isinstance(output, defaultdict):
            return type(output)(output.default_factory, {**output, self.element: refined})
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


def attach(refinements: Sequence[tuple[nn.Module, Refinement]]) -> None:
    """Let each module's output be refined, after the refinements that it has; where one can't be, none is."""
    done: list[nn.Module] = []
    try:
        for module, refinement in refinements:
            _attach(module, refinement)
            done.append(module)
    except Exception:
        for module in reversed(done):
            _take_back(module)
        raise


def _attach(module: nn.Module, refinement: Refinement) -> None:
    holder, name = holder_of(module)
    kept = holder._modules.get(name, Refinements())  # no getattr: a wrapper may lend what its inner module has
    if not isinstance(kept, Refinements):
        raise ValueError(f"{type(holder).__name__} has a child {name!r} of its own; name another module")
    if not any(hook is refine for hook in module._forward_hooks.values()):
        module.register_forward_hook(refine)
    holder._modules[name] = kept.append(refinement)


def _take_back(module: nn.Module) -> None:
    """Undo the last `_attach`."""
    holder, name = holder_of(module)
    kept: Any = holder._modules[name]
    del kept[-1]
    if not kept:
        del holder._modules[name]
        _unhook(module)


def _unhook(module: nn.Module) -> None:
    for key in [key for key, hook in module._forward_hooks.items() if hook is refine]:
        del module._forward_hooks[key]


def detach(module: nn.Module) -> None:
    """Take every refinement from `module` that it runs or keeps for another."""
    _unhook(module)
    ours = [name for name, child in module._modules.items() if name.startswith(NAME) and isinstance(child, Refinements)]
    for name in ours:
        del module._modules[name]


def refine(module: nn.Module, args: Any, output: Any) -> Any:
    """The forward hook of a module with refinements."""
    holder, name = holder_of(module)
    kept: Any = holder._modules.get(name)
    if kept is None:
        raise RuntimeError(
            f"{type(holder).__name__} has lost its inserted layer, as when a conversion put a new module in its place; "
            "convert first, insert after"
        )
    for refinement in kept:
        output = refinement(output)
    return output


def output_of(module: nn.Module) -> nn.Module:
    """The module whose output is `module`'s: a Sequential's and a ModuleList's is their last module's.

    Many models run over such a container's modules instead of calling it. A compiled module's is that of its own one.
    """
    while (inner := _inner(module)) is not None:
        module = inner
    return module


def _inner(module: nn.Module) -> nn.Module | None:
    if "_orig_mod" in module._modules:
        return module._modules["_orig_mod"]
    plain = isinstance(module, (nn.Sequential, nn.ModuleList)) and type(module).forward in _PLAIN
    return _own(module)[-1] if plain and _own(module) else None


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
