"""timm's description of a model's feature stages (`feature_info`), wherever in the model it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import nn


class Stage(NamedTuple):
    """One entry of `feature_info`: timm's name of the module, the map's channels, image height / map height."""

    name: str
    channels: int
    reduction: float


def feature_host(model: nn.Module) -> nn.Module | None:
    """Return the outermost module that has a `feature_info`, or None."""
    return next((module for _, module in _hosts(model)), None)


def stages(model: nn.Module) -> list[Stage]:
    """Return the model's feature stages, named relative to `model` where such modules exist; [] where it has none.

    Raises ValueError where the model holds several networks that have stages.
    """
    hosts = list(_hosts(model))
    if not hosts:
        return []
    prefix, host = hosts[0]
    separate = [name for name, _ in hosts if not name.startswith(prefix)]
    if separate:
        names = ", ".join(repr(name.removesuffix(".")) for name in (prefix, *separate))
        raise ValueError(f"the model holds several networks with stages, {names}; give module names")
    known = {name for name, _ in host.named_modules(remove_duplicate=False)}
    return [
        Stage(prefix + _spelling(entry["module"], known), entry["num_chs"], entry["reduction"])
        for entry in _entries(host)
        if entry["module"]  # timm leaves it empty where a model has no such map
    ]


def _hosts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Return every module that has a `feature_info`, outer before inner, with its name and a dot."""
    return ((f"{name}." if name else "", module) for name, module in model.named_modules() if _entries(module))


def _entries(module: nn.Module) -> list[dict[str, Any]]:
    info: Any = vars(module).get("feature_info")  # not getattr: a compiled model forwards to the module inside
    if hasattr(info, "get_dicts"):
        return info.get_dicts()
    return info if isinstance(info, list) and all("num_chs" in entry for entry in info) else []


def _spelling(name: str, known: set[str]) -> str:
    """Return the name in a model built with features_only, whose modules are flattened or wrapped."""
    return next((spelt for spelt in (name, name.replace(".", "_"), f"model.{name}") if spelt in known), name)
