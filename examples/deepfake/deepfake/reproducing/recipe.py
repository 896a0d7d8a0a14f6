"""The paper's recipe, and how another one departs from it."""

from __future__ import annotations

from typing import Any

PAPERS: dict[str, tuple[Any, ...]] = {"profile": ("recce",), "train": ({},), "prepare": ({},), "processes": (1, 2)}
"""The values of reproduce.json that are the paper's: no option is changed. It trained on two GPUs; its batch of 32 is
that of both together here, which one GPU can hold too."""


def departures(recipe: dict[str, Any]) -> list[str]:
    """What is not the paper's in a recipe, as reproduce.json holds it."""
    return [f"`{name}`: {shown(recipe[name])}" for name, papers in PAPERS.items() if recipe[name] not in papers]


def shown(value: Any) -> str:
    """One value of a recipe as text; of options, those that were changed."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {shown(option)}" for name, option in value.items()) or "the defaults"
    if isinstance(value, list):
        return " ".join(map(str, value))
    return str(value)
