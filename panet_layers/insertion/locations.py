"""The locations where layers go: module names, patterns or timm's stages, as modules that return a feature map."""

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
from .layouts import Layout, at_reduction, read_layout, with_order
from .observation import Element, Observation, Shapes
from .refinement import Refinements, holder_of, output_of

STAGES = "stages"


class Location(NamedTuple):
    """Where a layer goes.

    name: the module's name in the model, for messages and the report.
    module: the module whose output is refined.
    layout, element: of the feature map in this output; element as in `Refinement`.
    calls: how often the model calls the module for a batch.
    """

    name: str
    module: nn.Module
    layout: Layout
    element: Element
    calls: int = 1


class FeatureMap(NamedTuple):
    """A feature map in a module's output: which element of the output it is, as in `Refinement`, and its layout."""

    element: Element
    layout: Layout


def find_locations(at: str | Sequence[str], seen: Observation) -> list[Location]:
    """Return the locations in the observed model that `at` names.

    Raises ValueError, naming the module and what it returned, where one can't take a layer.
    """
    if at == STAGES:
        found = [_stage_location(stage, seen) for stage in stages(seen.model)]
        if not found:
            raise ValueError('at="stages" needs timm\'s feature_info, which the model does not have; give module names')
    else:
        found = [_named_location(name, seen) for name in _matching_names(seen.model, at)]
    for location in found:
        _check_holder(location, seen.model)
    return found


def _matching_names(model: nn.Module, at: str | Sequence[str]) -> list[str]:
    """Return the names of the modules that `at` matches, in its order, each module once."""
    patterns: list[Any] = [at] if isinstance(at, str) else list(at) if isinstance(at, Iterable) else []
    if not patterns or not all(isinstance(pattern, str) and pattern for pattern in patterns):
        raise ValueError(f"at must be a module's name, a pattern, or several of them, got {at!r}")
    modules = {name: module for name, module in model.named_modules(remove_duplicate=False) if name}
    inserted = tuple(f"{name}." for name, module in modules.items() if isinstance(module, Refinements))
    own = [name for name in modules if not f"{name}.".startswith(inserted)]  # patterns match no inserted layer
    found: dict[nn.Module, str] = {}
    for pattern in patterns:
        matched = [pattern] if pattern in modules else [name for name in own if _fits(name, pattern)]
        if not matched:
            similar = difflib.get_close_matches(pattern, own, n=3)
            hint = f"; similar names are {', '.join(similar)}" if similar else ""
            raise ValueError(f"the model has no module {pattern!r}{hint}")
        for name in matched:
            found.setdefault(modules[name], name)
    return list(found.values())


def _fits(name: str, pattern: str) -> bool:
    """Return whether a name fits a pattern, part by part: a star ends at a dot, as in a path it ends at a slash."""
    parts, wanted = name.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def _named_location(name: str, seen: Observation) -> Location:
    named = seen.model.get_submodule(name)
    module = output_of(named)
    calls = seen.outputs.get(module)
    _check_not_scripted(name, module)
    if not calls:
        raise ValueError(f"module {_described(name, module)} was not called in the dry run, so it has no output")
    if _used_elsewhere(named, module, seen):
        raise ValueError(
            f"module {_described(name, named)} ends in {type(module).__name__}, which is used elsewhere too; name "
            "another module"
        )
    found = {_first_map(shapes, seen) for shapes in calls}
    one = found.pop()
    if one is None or found:
        returned = ", then ".join(dict.fromkeys(map(str, calls)))
        raise ValueError(
            f"module {_described(name, module)} returned {returned} for {seen.image}; it must return one feature map "
            "in the proportions of the images, (B, C, H, W), (B, H, W, C) or (B, tokens, C), the same in every call; "
            "a Conv2d, BatchNorm2d or 2d pooling may return (B, C, H, W) in any proportions; name another module"
        )
    return Location(name, module, _with_token_order(seen.model, name, one.layout), one.element, len(calls))


def _used_elsewhere(named: nn.Module, last: nn.Module, seen: Observation) -> bool:
    """Return whether a container's last module also runs outside it: by calls, or by names if it is not called."""
    if named in seen.outputs:
        return len(seen.outputs[named]) != len(seen.outputs[last])
    modules = [module for _, module in seen.model.named_modules(remove_duplicate=False)]
    return sum(module is last for module in modules) != sum(module is named for module in modules)


def _check_holder(location: Location, model: nn.Module) -> None:
    """Raise ValueError where the module that has to hold the layer can't, or holds another container's layers too."""
    holder = holder_of(location.module)
    _check_not_scripted(location.name, holder[0])
    for name, other in model.named_modules():
        if other is not location.module and output_of(other) is other and holder_of(other) == holder:
            raise ValueError(
                f"module {_described(location.name, location.module)} ends in {type(holder[0]).__name__}, as "
                f"{_described(name, other)} does; name another module"
            )


def _check_not_scripted(name: str, module: nn.Module) -> None:
    if isinstance(module, torch.jit.ScriptModule):
        raise ValueError(f"module {_described(name, module)} is TorchScript, which takes no layer; name another module")


def _stage_location(stage: Stage, seen: Observation) -> Location:
    """Return the stage's own module where it returns the map that timm describes, else the last module that does.

    A few of timm's names do not exist, or belong to modules that are never called or return something else.
    """
    named = dict(seen.model.named_modules(remove_duplicate=False)).get(stage.name)
    own = None if named is None else output_of(named)
    if own is not None and (found := _described_map(own, stage, seen, by_name=True)):
        # A list may hold the map beside what is computed from it, so it is refined where it was made.
        if made := seen.makers.get((own, found.element)):
            return Location(_names(seen.model)[made[0]], made[0], found.layout, made[1])
        return Location(stage.name, own, _with_token_order(seen.model, stage.name, found.layout), found.element)
    if location := _last_with(stage, seen):
        return location
    reason = "does not exist" if own is None else f"returned {seen.outputs.get(own)}"
    raise ValueError(
        f"no module returned a map of {stage.channels} channels at 1/{stage.reduction} of the image size; "
        f"stage {stage.name!r} {reason}; give module names"
    )


def _last_with(stage: Stage, seen: Observation) -> Location | None:
    """Return the last module that returns the stage's map and is not inside one that returns something else."""
    names = _names(seen.model)
    found = {names[module]: (module, _described_map(module, stage, seen)) for module in seen.outputs if module in names}
    for name, (module, feature_map) in reversed(found.items()):
        outer = [name[:i] for i, letter in enumerate(name) if letter == "."]
        if feature_map and all(found[parent][1] for parent in outer if parent in found):
            return Location(name, module, feature_map.layout, feature_map.element)
    return None


def _first_map(shapes: Shapes, seen: Observation) -> FeatureMap | None:
    """Return the first feature map in an output."""
    for element, shape in _tensor_shapes(shapes):
        layouts = read_layout(shape, seen.image)
        if layouts:
            return FeatureMap(element, _likeliest(layouts, seen.model))
    return None


def _described_map(module: nn.Module, stage: Stage, seen: Observation, by_name: bool = False) -> FeatureMap | None:
    """Return the map of the stage's channels and reduction in the output of the module's first call, or None.

    by_name: the module has the stage's name, so that in a single output the channels are enough: unpadded convolutions
        make small maps smaller than the reduction says.
    """
    for element, shape in _tensor_shapes(seen.outputs.get(module, [None])[0]):
        layouts = read_layout(shape, seen.image, stage.channels, stage.reduction)
        if not (by_name and element is None):
            layouts = [layout for layout in layouts if at_reduction(layout, seen.image, stage.reduction)]
        if layouts:
            return FeatureMap(element, _likeliest(layouts, seen.model))
    return None


def _tensor_shapes(shapes: Shapes) -> list[tuple[Element, tuple[int, ...]]]:
    """Return the shapes of an output's tensors, each with its element."""
    parts = shapes.items() if isinstance(shapes, dict) else [(None, shapes)]
    return [(element, shape) for element, shape in parts if isinstance(shape, tuple)]


def _likeliest(layouts: list[Layout], model: nn.Module) -> Layout:
    """Return the only layout; of NCHW and NHWC, where both fit the shape, the one that timm's model says it returns."""
    if len(layouts) == 1:
        return layouts[0]
    host = feature_host(model)
    if host is None:
        raise ValueError(
            f"a map of {layouts[0].channels}x{layouts[0].height}x{layouts[0].width} could be (B, C, H, W) or "
            "(B, H, W, C); give an example_input of another size"
        )
    kind = "NHWC" if getattr(host, "output_fmt", None) == "NHWC" else "NCHW"
    return next(layout for layout in layouts if layout.kind == kind)


def _with_token_order(model: nn.Module, name: str, layout: Layout) -> Layout:
    """Return the layout, with the order of Hiera's tokens, which are sorted by mask units, not row by row."""
    reroll: Any = getattr(feature_host(model), "reroll", None)
    block = re.search(r"blocks\.(\d+)", name)
    if reroll is None or block is None or layout.kind != "tokens":
        return layout
    tokens = layout.height * layout.width
    candidates = (i for i in (int(block[1]), int(block[1]) - 1) if i in reroll.schedule)  # before or after its pooling
    number = next((i for i in candidates if math.prod(reroll.schedule[i][1]) == tokens), None)
    if number is None:
        raise ValueError(f"module {name!r} returned {tokens} tokens in an unknown order; name another module")
    return with_order(layout, reroll(torch.arange(tokens, device="cpu").view(1, -1, 1), number)[0, :, :, 0])


def _names(model: nn.Module) -> dict[nn.Module, str]:
    return {module: name for name, module in model.named_modules() if name}


def _described(name: str, module: nn.Module) -> str:
    return f"{name!r} ({type(module).__name__})"
