"""Notices, at a model's next call, that an inserted layer no longer runs: its module or its hook is gone."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..compatibility import run_as_it_is
from .folding import check_absorbed
from .refinement import NAME, Refinements, holder_of, hook_key, refine


class Presence:
    """Forward pre-hook of a model with inserted layers: warns, once for each, of the layers that are lost.

    layers: the modules whose outputs are refined, with their names.
    norms: of those that are convolutions, the normalisation that follows, and its name.
    hooks: these modules, and the keys of their hooks.
    links: what leads from the model to these modules and normalisations: modules, keys and children. A call compares
        hooks and links; only where one has changed does it search the model, in which a module may also have been
        wrapped, moved or replaced by a copy.
    """

    def __init__(self) -> None:
        self.layers: dict[nn.Module, str] = {}
        self.norms: dict[nn.Module, tuple[_BatchNorm, str]] = {}
        self.hooks: list[tuple[nn.Module, Any]] = []
        self.links: list[tuple[nn.Module, str, Any]] = []

    @run_as_it_is
    def __call__(self, model: nn.Module, args: Any) -> None:
        if not torch.compiler.is_compiling() and self._has_changed():
            self.check(model)

    def _has_changed(self) -> bool:
        # By way of the modules: their dictionaries may be replaced.
        for module, key in self.hooks:
            if module._forward_hooks.get(key) is not refine:
                return True
        for module, key, child in self.links:  # noqa: SIM110 (a generator is slower)
            if module._modules.get(key) is not child:
                return True
        return False

    def check(self, model: nn.Module) -> None:
        """Warn of the layers that are lost, and forget them."""
        named = dict(model.named_modules(remove_duplicate=False))
        present = set(named.values())
        gone = self.layers.keys() - present
        copies = {name: named[name] for name in map(self.layers.__getitem__, gone) if _runs(named.get(name))}
        removed = {module for module in gone if not _runs(module) and not _holds(module)}
        _warn({*_unused(model), *(self.layers[module] for module in gone - removed)} - copies.keys())
        for conv, (norm, name) in self.norms.items():
            if conv in present and norm not in present and not _has_state(named.get(name)):
                check_absorbed(conv, norm)
        self.note(model, copies.values(), {})

    def note(self, model: nn.Module, added: Iterable[nn.Module], normalised: Mapping[nn.Module, _BatchNorm]) -> None:
        """Note where the layers are now, with those at the added modules."""
        names = {module: name for name, module in model.named_modules()}
        self.layers = {m: names[m] for m in (*self.layers, *added) if m in names and _runs(m)}
        norms = {**{conv: norm for conv, (norm, _) in self.norms.items()}, **normalised}
        self.norms = {m: (norms[m], names[norms[m]]) for m in self.layers if norms.get(m) in names}
        self.hooks = [(module, hook_key(module)) for module in self.layers]
        links: dict[Any, Any] = {}
        for name in (*self.layers.values(), *(name for _, name in self.norms.values())):
            parent: Any = model
            for key in filter(None, name.split(".")):
                links[parent, key] = parent._modules[key]
                parent = links[parent, key]
        self.links = [(parent, key, child) for (parent, key), child in links.items()]


def watch(model: nn.Module, modules: Iterable[nn.Module], normalised: Mapping[nn.Module, _BatchNorm]) -> None:
    """Have the model warn when it no longer runs the layers inserted at these modules, or has folded a normalisation.

    normalised: modules, and the normalisation that each one's output goes to.
    """
    _hooks(model).setdefault(NAME, Presence()).note(model, modules, normalised)


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
            "and insert after",
            stacklevel=3,
        )


def _runs(module: nn.Module | None) -> bool:
    return module is not None and hook_key(module) is not None


def _holds(module: nn.Module) -> bool:
    holder, name = holder_of(module)
    return name in holder._modules


def _has_state(module: nn.Module | None) -> bool:
    return module is not None and any(True for _ in chain(module.parameters(), module.buffers()))


def _hooks(module: nn.Module) -> dict[Any, Any]:
    return module._forward_pre_hooks  # by torch's annotation its keys are numbers
