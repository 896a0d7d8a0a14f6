"""A dry run: what every module of a model puts out."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .features import feature_host
from .layouts import ChannelsFirst, Image

Element = Any  # of an output: a place in a list or tuple, a key of a mapping, or None for the output itself
Origin = tuple[nn.Module, Element]
Shapes = Any  # a tensor's shape as a tuple; a dict of these, by element, for a list, tuple or mapping; else None

FOLDED = 16  # channels of a first convolution that sees blocks of pixels (tresnet's), not the image
IMAGE_LAYERS = (
    *(nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d),
    *(nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Upsample, nn.PixelShuffle),
)


class Observation(NamedTuple):
    """outputs: by module, what each of its calls put out; the modules in the order in which they first ended.

    makers: by the module and place of a tensor in a list, tuple or mapping, the module that put it out first, and
        where.
    """

    image: Image
    outputs: dict[nn.Module, list[Shapes]]
    makers: dict[Origin, Origin]


def observe(model: nn.Module, example_input: Any = None) -> Observation:
    """What every module put out in a dry run of the model. Raises as `dry_run` does."""
    outputs: dict[nn.Module, list[Shapes]] = {}
    makers: dict[Origin, Origin] = {}
    seen: dict[int, tuple[weakref.ref[Tensor], Origin]] = {}

    def note(module: nn.Module, args: Any, output: Any) -> None:
        outputs.setdefault(module, []).append(_shapes(output, isinstance(module, IMAGE_LAYERS)))
        for element, tensor in _tensors(output):
            known, maker = seen.get(id(tensor), (None, None))
            if maker is None or known is None or known() is not tensor:  # ids are given again
                seen[id(tensor)] = weakref.ref(tensor), (module, element)
            elif element is not None:
                makers[module, element] = maker

    with ExitStack() as hooks:
        for module in model.modules():
            if not isinstance(module, torch.jit.ScriptModule):  # takes no hooks
                hooks.enter_context(module.register_forward_hook(note))
        image = dry_run(model, example_input)
    return Observation(image, outputs, makers)


def dry_run(model: nn.Module, example_input: Any = None) -> Image:
    """Run the model once, in evaluation mode and without gradients, and leave it as it was; the images' size.

    Raises ValueError where there is no input to run it on, or it fails on it.
    """
    args, kwargs = _arguments(model, example_input)
    image = _image((*args, *kwargs.values()))
    with _evaluating(model), _uncompiled(), torch.no_grad():
        try:
            model(*args, **kwargs)
        except Exception as error:
            given = "the given example_input" if example_input is not None else f"zeros of {tuple(args[0].shape)}"
            raise ValueError(f"the model failed on {given}; give an example_input that it takes: {error}") from error
    return image


def _arguments(model: nn.Module, example_input: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if example_input is None:
        return (_default_input(model),), {}
    if isinstance(example_input, Mapping):
        return (), dict(example_input)
    return (tuple(example_input) if isinstance(example_input, (tuple, list)) else (example_input,)), {}


def _default_input(model: nn.Module) -> Tensor:
    """Two black images of the size that timm's configuration names, of as many channels as the network takes."""
    _, host = feature_host(model)
    config = getattr(host, "pretrained_cfg", None) or {}
    size = config.get("input_size")
    if host is None or size is None:
        raise ValueError("example_input is needed: the model has no timm configuration that names its input's size")
    height, width = getattr(getattr(host, "patch_embed", None), "img_size", None) or size[1:]
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    return torch.zeros(2, _channels(host, size[0]), height, width, device=like.device, dtype=like.dtype)


def _channels(host: nn.Module, configured: int) -> int:
    """Of the images that the network was built for (`in_chans`), whatever its configuration says."""
    first = next((module.in_channels for module in host.modules() if isinstance(module, nn.Conv2d)), configured)
    return getattr(host, "in_chans", first if first < FOLDED else configured)


def _image(inputs: tuple[Any, ...]) -> Image:
    values = list(_leaves(inputs))
    for value in values:
        if isinstance(value, Tensor) and value.dim() == 4:
            return Image(value.shape[0], value.shape[2], value.shape[3])
    given = [tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__ for value in values]
    raise ValueError(f"example_input must hold images of shape (B, C, H, W), got {given}")


def _leaves(value: Any) -> Iterator[Any]:
    """What is in lists, tuples and mappings, and in those in them."""
    parts = elements(value)
    if not parts:
        yield value
    for _, part in parts:
        yield from _leaves(part)


def _shapes(output: Any, channels_first: bool = False) -> Shapes:
    if isinstance(output, Tensor):
        return ChannelsFirst(output.shape) if channels_first else tuple(output.shape)
    parts = elements(output)
    return {element: _shapes(part) for element, part in parts} if parts else None


def _tensors(output: Any) -> list[tuple[Element, Tensor]]:
    parts = [(None, output)] if isinstance(output, Tensor) else elements(output)
    return [(element, part) for element, part in parts if isinstance(part, Tensor)]


def elements(output: Any) -> list[tuple[Element, Any]]:
    """What a list, tuple or mapping holds, and where."""
    if isinstance(output, Mapping):
        return list(output.items())
    return list(enumerate(output)) if isinstance(output, (tuple, list)) else []


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards each module's own. Without `train()`, which may do more, as merge weights."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, training in modes:
            module.training = training


def _uncompiled() -> AbstractContextManager[Any]:
    """Compiled models run as plain ones: code compiled before calls no hooks that were added since."""
    compiles = "torch._dynamo" in sys.modules  # which takes seconds to import
    return torch.compiler.set_stance("force_eager") if compiles else nullcontext()
