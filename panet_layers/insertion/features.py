"""timm's description of a model's feature stages (`feature_info`), wherever in the model it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import nn


class Stage(NamedTuple):
    """One entry of `feature_info`: the module's name as timm gives it, channels, and image pixels to a map's pixel."""

    name: str
    channels: int
    reduction: float


def feature_host(model: nn.Module) -> tuple[str, nn.Module | None]:
    """The outermost module that has a `feature_info`, and its name with a dot behind; ("", None) where none has."""
    return next(_hosts(model), ("", None))


def stages(model: nn.Module) -> list[Stage]:
    """The model's feature stages, under names that hold from `model` on where they exist there.

    Raises ValueError where it holds several networks that have some.
    """
    prefix, host = feature_host(model)
    if host is None:
        return []
    apart = [name.removesuffix(".") for name, _ in _hosts(model) if not name.startswith(prefix)]
    if apart:
        names = ", ".join(map(repr, (prefix.removesuffix("."), *apart)))
        raise ValueError(f"the model holds several networks with stages, {names}; give module names")
    known = {name for name, _ in host.named_modules(remove_duplicate=False)}
    return [
        Stage(prefix + _spelling(entry["module"], known), entry["num_chs"], entry["reduction"])
        for entry in _entries(host)
        if entry["module"]  # timm leaves it empty where a model has no such map
    ]


def _hosts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module that has a `feature_info`, the outer before the inner, its name with a dot behind."""
    return ((f"{name}." if name else "", module) for name, module in model.named_modules() if _entries(module))


def _entries(module: nn.Module) -> list[dict[str, Any]]:
    info: Any = vars(module).get("feature_info")  # a compiled model lends its own module's
    if hasattr(info, "get_dicts"):
        return info.get_dicts()
    return info if isinstance(info, list) and all("num_chs" in entry for entry in info) else []


def _spelling(name: str, known: set[str]) -> str:
    """The name in a model built with features_only, whose modules are flattened or wrapped."""
    return next((spelt for spelt in (name, name.replace(".", "_"), f"model.{name}") if spelt in known), name)
