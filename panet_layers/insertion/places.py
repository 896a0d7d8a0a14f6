"""Where layers go: module names, patterns or timm's stages, as modules whose outputs hold a feature map."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import torch
from torch import nn

from .features import Stage, feature_host, stages
from .layouts import Image, Layout, at_reduction, in_order, read_layout
from .observation import Element, Observation, Shapes
from .refinement import Refinements, holder_of, output_of

STAGES = "stages"


class Map(NamedTuple):
    """A feature map in a module's output.

    element: its place in a list or tuple, its key in a mapping, or None for the output itself.
    """

    element: Element
    layout: Layout


class Place(NamedTuple):
    """name: as asked for. module: whose output is refined. element: of the output, or None for all of it.

    calls: how often the module was called for a batch.
    """

    name: str
    module: nn.Module
    layout: Layout
    element: Element
    calls: int = 1


def find_places(model: nn.Module, at: str | Sequence[str], seen: Observation) -> list[Place]:
    """The places that `at` names. Raises ValueError, naming the module and what it gave, where there is no map."""
    if at == STAGES:
        described = stages(model)
        if not described:
            raise ValueError('at="stages" needs timm\'s feature_info, which the model has not; give module names')
        return [_alone(model, _stage_place(model, stage, seen)) for stage in described]
    names: list[Any] = [at] if isinstance(at, str) else list(at) if isinstance(at, Iterable) else []
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"at must be a module's name, a pattern, or several of them, got {at!r}")
    return [_alone(model, _named_place(model, name, seen)) for name in _matches(model, names)]


def _matches(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """The names that the patterns match, in the patterns' order, each module once."""
    modules = {name: module for name, module in model.named_modules(remove_duplicate=False) if name}
    names = list(modules)
    ours = tuple(f"{name}." for name, module in modules.items() if isinstance(module, Refinements))
    theirs = [name for name in names if not f"{name}.".startswith(ours)]  # patterns mean the model's own modules
    found: dict[nn.Module, str] = {}
    for pattern in patterns:
        matched = [pattern] if pattern in names else [name for name in theirs if _fits(name, pattern)]
        if not matched:
            near = difflib.get_close_matches(pattern, theirs, n=3)
            hint = f"; near it are {', '.join(near)}" if near else ""
            raise ValueError(f"the model has no module {pattern!r}{hint}")
        for name in matched:
            found.setdefault(modules[name], name)
    return list(found.values())


def _fits(name: str, pattern: str) -> bool:
    """Whether a name is of a pattern, part by part: a star ends at a dot, as in a path it ends at a slash."""
    parts, wanted = name.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def _named_place(model: nn.Module, name: str, seen: Observation) -> Place:
    named = model.get_submodule(name)
    module = output_of(named)
    calls = seen.outputs.get(module)
    _check_takes_layers(name, module)
    if not calls:
        raise ValueError(f"module {_described(name, module)} was not called in the dry run, so it gave no feature map")
    if _used_elsewhere(model, named, module, seen):
        raise ValueError(
            f"module {_described(name, named)} ends in {type(module).__name__}, which is used elsewhere too; name "
            "another module"
        )
    found = {_first_map(model, shapes, seen.image) for shapes in calls}
    one = found.pop()
    if one is None or found:
        given = ", then ".join(dict.fromkeys(map(str, calls)))
        wanted = (
            "one feature map of the images' proportions, (B, C, H, W), (B, H, W, C) or (B, tokens, C), the same in "
            "every call; a Conv2d's, BatchNorm2d's or 2d pooling's is (B, C, H, W) in any proportions"
        )
        raise ValueError(f"module {_described(name, module)} gave {given} for {seen.image}; wanted is {wanted}")
    return Place(name, module, _in_rows(model, name, one.layout), one.element, len(calls))


def _used_elsewhere(model: nn.Module, named: nn.Module, last: nn.Module, seen: Observation) -> bool:
    """Whether a container's last module also has other work: by its calls, or by names where the container has none."""
    if named in seen.outputs:
        return len(seen.outputs[named]) != len(seen.outputs[last])
    modules = [module for _, module in model.named_modules(remove_duplicate=False)]
    return sum(module is last for module in modules) != sum(module is named for module in modules)


def _alone(model: nn.Module, place: Place) -> Place:
    """The place. Raises ValueError where its layer can't lie, or another container's would lie too."""
    holder = holder_of(place.module)
    _check_takes_layers(place.name, holder[0])
    for name, other in model.named_modules():
        if other is not place.module and output_of(other) is other and holder_of(other) == holder:
            raise ValueError(
                f"module {_described(place.name, place.module)} ends in {type(holder[0]).__name__}, in which "
                f"{_described(name, other)} ends too; name another module"
            )
    return place


def _check_takes_layers(name: str, module: nn.Module) -> None:
    if isinstance(module, torch.jit.ScriptModule):
        raise ValueError(f"module {_described(name, module)} is TorchScript, which takes no layer")


def _stage_place(model: nn.Module, stage: Stage, seen: Observation) -> Place:
    """The stage's own module where its output is as timm describes it, else the one that puts such a map out.

    A few of timm's names do not exist, are never called, or are of modules that put something else out.
    """
    own = dict(model.named_modules(remove_duplicate=False)).get(stage.name)
    if own is not None and (found := _described_map(model, output_of(own), stage, seen, by_name=True)):
        # In a list the map may stand beside what goes on from it; so it is refined where it was made.
        made = seen.makers.get((output_of(own), found.element))
        if made is not None:
            return Place(_names(model)[made[0]], made[0], found.layout, made[1])
        return Place(stage.name, output_of(own), _in_rows(model, stage.name, found.layout), found.element)
    name = _last_with(model, stage, seen)
    if name is None:
        gave = "does not exist" if own is None else f"put {seen.outputs.get(output_of(own))} out"
        raise ValueError(f"no map of {stage.channels} channels at 1/{stage.reduction}: stage {stage.name!r} {gave}")
    module = model.get_submodule(name)
    found = _described_map(model, module, stage, seen)
    assert found is not None
    return Place(name, module, found.layout, found.element)


def _last_with(model: nn.Module, stage: Stage, seen: Observation) -> str | None:
    """The last module to put the stage's map out, of those that are not inside one that puts out something else."""
    names = _names(model)
    fits = {
        name: _described_map(model, module, stage, seen) is not None
        for module, calls in seen.outputs.items()
        if (name := names.get(module))
    }
    for name in reversed(fits):
        outer = [name[:i] for i, letter in enumerate(name) if letter == "."]
        if fits[name] and all(fits.get(parent, True) for parent in outer):
            return name
    return None


def _first_map(model: nn.Module, shapes: Shapes, image: Image) -> Map | None:
    """The first feature map in an output."""
    for element, shape in _tensors(shapes):
        layouts = read_layout(shape, image)
        if layouts:
            return Map(element, _preferred(model, layouts))
    return None


def _described_map(
    model: nn.Module, module: nn.Module, stage: Stage, seen: Observation, by_name: bool = False
) -> Map | None:
    """The map of the stage's channels and reduction that the module puts out when it is called, if it does.

    by_name: the stage is this module, so that the channels tell enough where it puts one map out; unpadded convolutions
    make small maps smaller than the reduction says.
    """
    for element, shape in _tensors(seen.outputs.get(module, [None])[0]):
        layouts = read_layout(shape, seen.image, stage.channels, stage.reduction)
        if not (by_name and element is None):
            layouts = [layout for layout in layouts if at_reduction(layout, seen.image, stage.reduction)]
        if layouts:
            return Map(element, _preferred(model, layouts))
    return None


def _tensors(shapes: Shapes) -> list[tuple[Element, tuple[int, ...]]]:
    """The tensors of an output, with their place in it."""
    parts = shapes.items() if isinstance(shapes, dict) else [(None, shapes)]
    return [(element, shape) for element, shape in parts if isinstance(shape, tuple)]


def _preferred(model: nn.Module, layouts: list[Layout]) -> Layout:
    """The one of a kind that timm says, of maps with as many channels as rows and columns."""
    if len(layouts) == 1:
        return layouts[0]
    _, host = feature_host(model)
    if host is None:
        raise ValueError(
            f"a map of {layouts[0].channels}x{layouts[0].height}x{layouts[0].width} could be (B, C, H, W) and "
            "(B, H, W, C); give an example_input of another size"
        )
    kind = "NHWC" if getattr(host, "output_fmt", None) == "NHWC" else "NCHW"
    return next(layout for layout in layouts if layout.kind == kind)


def _in_rows(model: nn.Module, name: str, layout: Layout) -> Layout:
    """The layout with the order of Hiera's tokens, which lie by mask units, not row by row."""
    _, host = feature_host(model)
    reroll: Any = getattr(host, "reroll", None)
    block = re.search(r"blocks\.(\d+)", name)
    if reroll is None or block is None or layout.kind != "tokens":
        return layout
    tokens = layout.height * layout.width
    stages = (i for i in (int(block[1]), int(block[1]) - 1) if i in reroll.schedule)  # before or behind its pooling
    stage = next((i for i in stages if math.prod(reroll.schedule[i][1]) == tokens), None)
    if stage is None:
        raise ValueError(f"module {name!r} gave {tokens} tokens, whose order is not known")
    return in_order(layout, reroll(torch.arange(tokens).view(1, -1, 1), stage)[0, :, :, 0])


def _names(model: nn.Module) -> dict[nn.Module, str]:
    return {module: name for name, module in model.named_modules() if name}


def _described(name: str, module: nn.Module) -> str:
    return f"{name!r} ({type(module).__name__})"
