"""What an insertion adds to a model: a layer on one map of a module's output, run by a forward hook of the module.

A hook and a child module change no existing name: the plain model's checkpoints load, and code that uses the model
finds the modules it knows. The hook is a plain function that finds the layer in the module that it is called for, so
copies, pickles and replicas run their own layers. It has a name among the module's hooks: torch numbers hooks again in
each process, and one of these numbers could come again after loading a pickle.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..tracing import fx_leaf
from .layouts import Layout
from .observation import Element
from .share import new_share, shared

NAME = "inserted_attention"
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_PLAIN = (nn.Sequential.forward, nn.ModuleList.forward)


class Refinement(nn.Module):
    """`layer` on a feature map in a module's output.

    layout: of the tensor that holds the map.
    element: the tensor's index or key in the output, or None where it is the output.
    share: s in lerp(x, layer(x), s), a parameter of one number; None for the layer as it is.
    """

    share: Tensor | None
    order: Tensor | None
    position: Tensor | None

    def __init__(self, layer: nn.Module, layout: Layout, element: Element, start: str = "layer") -> None:
        super().__init__()
        self.layer, self.layout, self.element = layer, layout, element
        self.register_parameter("share", new_share() if start == "identity" else None)
        # Not buffers: no checkpoint holds them, so `to_empty` would leave them undefined.
        self.order, self.position = (None, None) if layout.order is None else _order(layout.order, torch.device("cpu"))

    @fx_leaf
    def forward(self, output: Any) -> Any:
        """Return the module's output, refined."""
        if self.element is None:
            return self._refine(output)
        refined = self._refine(output[self.element])
        if isinstance(output, defaultdict):
            return type(output)(output.default_factory, {**output, self.element: refined})
        if isinstance(output, Mapping):
            return type(output)({**output, self.element: refined})  # type: ignore[call-arg]
        parts = list(output)
        parts[self.element] = refined
        return type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)

    def _refine(self, x: Tensor) -> Tensor:
        if self.layout.kind == "NCHW":
            return self._refine_map(x)
        if self.layout.kind == "NHWC":
            return self._refine_map(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self._refine_tokens(x)

    def _refine_map(self, x: Tensor) -> Tensor:
        return self.layer(x) if self.share is None else shared(x, self.layer, self.share)

    def _refine_tokens(self, x: Tensor) -> Tensor:
        prefix = self.layout.prefix
        tokens = x[:, prefix:] if prefix else x
        size = self.layout.grid(tokens.shape[1])
        order, position = self._order_on(x.device)
        tokens = tokens if order is None else tokens[:, order]
        x4 = tokens.transpose(1, 2).reshape(x.shape[0], x.shape[2], *size)  # not `unflatten`: ONNX has it from opset 13
        out = self._refine_map(x4).flatten(2).transpose(1, 2)
        out = out if position is None else out[:, position]
        return torch.cat([x[:, :prefix], out], dim=1) if prefix else out

    def _apply(self, fn: Any, recurse: bool = True) -> Refinement:
        super()._apply(fn, recurse)
        if self.order is not None:  # where `fn` moves tensors to, so that no call has to do it
            self._order_on(fn(torch.empty(0, device=self.order.device)).device)
        return self

    def _order_on(self, device: torch.device) -> tuple[Tensor | None, Tensor | None]:
        """Return `order` and `position` on the device, and keep them there for later calls."""
        if self.order is None or self.order.device == device:
            return self.order, self.position
        assert self.layout.order is not None
        order, position = _order(self.layout.order, device)
        if type(order) is Tensor and not torch.compiler.is_compiling():  # a traced graph's tensors end with it
            self.order, self.position = order, position
        return order, position

    def reset_parameters(self) -> None:
        """Set the share to 0, as at the start."""
        if self.share is not None:
            nn.init.zeros_(self.share)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """Load as every module does. A state with the layer and without its share holds the layer as it is."""
        if self.share is not None and prefix + "share" not in state_dict:
            values = (value for key, value in state_dict.items() if key.startswith(f"{prefix}layer."))
            held = next((value for value in values if isinstance(value, Tensor)), None)  # others are extra states
            if held is not None:
                state_dict[prefix + "share"] = torch.ones(1, dtype=self.share.dtype, device=held.device)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)
        self._parameters.setdefault("share", None)  # pickles of version 0.1

    def extra_repr(self) -> str:
        return str(self.layout) + ("" if self.element is None else f", element={self.element!r}")


@torch.inference_mode(False)  # tensors created in inference mode could not index in training
def _order(order: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the index of each pixel's token, and of each token's pixel."""
    tokens = torch.tensor(order, device=device)
    return tokens, tokens.argsort()


class Refinements(nn.ModuleList):
    """The refinements of a module's output. As a child it returns its input: some modules run all their children."""

    def forward(self, x: Any) -> Any:
        return x

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)
        # Pickles of version 0.1 have the hook under a number; no later hook of this process may take it.
        RemovableHandle.next_id = max(RemovableHandle.next_id, 1 << 40)


def attach(refinements: Sequence[tuple[nn.Module, Refinement]]) -> None:
    """Add a refinement to each module, after those that it has; where one fails, none is added."""
    added: list[nn.Module] = []
    try:
        for module, _ in refinements:
            holder, name = holder_of(module)
            if not isinstance(holder._modules.get(name, Refinements()), Refinements):
                raise ValueError(f"{type(holder).__name__} has a child {name!r} of its own; name another module")
            if hook_key(module) is None:
                module.register_forward_hook(refine).remove()  # raises where a module accepts no hooks
                _hooks(module)[NAME] = refine
                added.append(module)
    except Exception:
        for module in added:
            del _hooks(module)[NAME]
        raise
    for module, refinement in refinements:
        holder, name = holder_of(module)
        kept: Any = holder._modules.setdefault(name, Refinements())  # getattr may find a wrapped module's child
        kept.append(refinement)


def detach(module: nn.Module) -> None:
    """Remove every refinement that `module` runs or holds for a container."""
    while (key := hook_key(module)) is not None:
        del _hooks(module)[key]
    ours = [name for name, child in module._modules.items() if name.startswith(NAME) and isinstance(child, Refinements)]
    for name in ours:
        del module._modules[name]


def hook_key(module: nn.Module) -> Any:
    """Return the key of the hook that runs the module's refinements, or None: its name, or in old pickles a number."""
    return next((key for key, hook in module._forward_hooks.items() if hook is refine), None)


def _hooks(module: nn.Module) -> dict[Any, Any]:
    return module._forward_hooks  # by torch's annotation its keys are numbers


def refine(module: nn.Module, args: Any, output: Any) -> Any:
    """Return the module's output, refined: the forward hook of a module with refinements."""
    holder, name = holder_of(module)
    kept: Any = holder._modules.get(name)
    if kept is None:
        raise RuntimeError(
            f"{type(holder).__name__} has lost its inserted layer: a conversion may have replaced the module; convert "
            "first, insert after"
        )
    for refinement in kept:
        output = refinement(output)
    return output


def output_of(module: nn.Module) -> nn.Module:
    """Return the module that computes the output: the last one in a Sequential or ModuleList, else `module` itself.

    Many models loop over such a container's modules and never call it. Of a compiled module, the module inside.
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
    """Return the module that holds `module`'s refinements as a child, and the child's name.

    A container may run every child that it has, or loop over them, so its last module holds them.
    """
    name = NAME
    while isinstance(module, _CONTAINERS) and _own(module):
        module, name = _own(module)[-1], name + "_of_parent"
    return module, name


def _own(module: nn.Module) -> list[nn.Module]:
    """Return a container's children without inserted ones; an empty container holds its refinements itself."""
    return [child for child in module.children() if not isinstance(child, Refinements)]
