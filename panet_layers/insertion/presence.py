"""Notices, at a model's next call, that an inserted layer no longer runs: its module or its hook is gone."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from ..compatibility import run_as_it_is
from .refinement import NAME, Refinements, holder_of, hook_key, refine

Link = tuple[dict[Any, Any], Any, Any]  # a dictionary, a key, and the value that it should have


class Presence:
    """Forward pre-hook of a model with inserted layers: warns, once for each, of the layers that are lost.

    layers: the modules whose outputs are refined, with their names.
    links: what leads from the model to these modules and their hooks. A call compares these; only where one has changed
        does it search the model, in which a module may also have been wrapped, moved or replaced by a copy.
    """

    def __init__(self) -> None:
        self.layers: dict[nn.Module, str] = {}
        self.links: list[Link] = []

    @run_as_it_is
    def __call__(self, model: nn.Module, args: Any) -> None:
        if torch.compiler.is_compiling():
            return
        for held, key, value in self.links:
            if held.get(key) is not value:
                self.check(model)
                return

    def check(self, model: nn.Module) -> None:
        """Warn of the layers that are lost, and forget them."""
        named = dict(model.named_modules(remove_duplicate=False))
        gone = self.layers.keys() - set(named.values())
        copies = {name: named[name] for name in map(self.layers.__getitem__, gone) if _runs(named.get(name))}
        removed = {module for module in gone if not _runs(module) and not _holds(module)}
        _warn({*_unused(model), *(self.layers[module] for module in gone - removed)} - copies.keys())
        self.note(model, copies.values())

    def note(self, model: nn.Module, added: Iterable[nn.Module]) -> None:
        """Note where the layers are now, with those at the added modules."""
        names = {module: name for name, module in model.named_modules()}
        self.layers = {m: names[m] for m in (*self.layers, *added) if m in names and _runs(m)}
        links: dict[Any, Link] = {}
        for module, name in self.layers.items():
            links[module] = module._forward_hooks, hook_key(module), refine
            parent: Any = model
            for key in filter(None, name.split(".")):
                links[parent, key] = parent._modules, key, parent._modules[key]
                parent = parent._modules[key]
        self.links = list(links.values())


def watch(model: nn.Module, modules: Iterable[nn.Module]) -> None:
    """Have the model warn when it no longer runs the layers inserted at these modules."""
    _hooks(model).setdefault(NAME, Presence()).note(model, modules)


def unwatch(module: nn.Module) -> None:
    """Undo `watch`."""
    _hooks(module).pop(NAME, None)


def check_presence(model: nn.Module) -> None:
    """Warn of the inserted layers that the model does not run."""
    if presence := _hooks(model).get(NAME):
        presence.check(model)
    else:  # a part of the model that the layers were inserted into, or a model around it
        _warn(_unused(model))


def _unused(model: nn.Module) -> list[str]:
    """Return the names of the modules that hold inserted layers which no hook runs."""
    run = {holder_of(module) for module in model.modules() if _runs(module)}
    return [
        name
        for name, module in model.named_modules()
        for key, child in module._modules.items()
        if isinstance(child, Refinements) and (module, key) not in run
    ]


def _warn(names: Iterable[str]) -> None:
    if lost := ", ".join(map(repr, sorted(set(names)))):
        warnings.warn(
            f"the model no longer runs the layers inserted at {lost}: something has replaced the modules, such as a "
            "conversion or the folding of a normalisation into a convolution, or removed their hooks; convert first "
            "and insert after, or insert after a whole block",
            stacklevel=3,
        )


def _runs(module: nn.Module | None) -> bool:
    return module is not None and hook_key(module) is not None


def _holds(module: nn.Module) -> bool:
    holder, name = holder_of(module)
    return name in holder._modules


def _hooks(module: nn.Module) -> dict[Any, Any]:
    return module._forward_pre_hooks  # by torch's annotation its keys are numbers
