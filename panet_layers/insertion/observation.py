"""A dry run of a model, and what every module returned in it."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .features import feature_host
from .layouts import ChannelsFirst, Image

Element = Any  # of an output: an index of a list or tuple, a key of a mapping, or None for the output itself
Origin = tuple[nn.Module, Element]
Shapes = Any  # a tensor's shape as a tuple; a dict of these, by element, for a list, tuple or mapping; else None

FOLDED = 16  # a first convolution with so many input channels sees blocks of pixels (tresnet), not the image
IMAGE_LAYERS = (
    *(nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d),
    *(nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Upsample, nn.PixelShuffle),
)


class Observation(NamedTuple):
    """What the modules of `model` returned in a dry run on images of the size `image`.

    outputs: for each module, the shapes that each of its calls returned, in the order in which the modules first ended.
    makers: for a module and an element of its list, tuple or mapping, the module that returned this tensor first, and
        as which element.
    normalised: the modules whose output a batch normalisation takes, and this normalisation.
    """

    model: nn.Module
    image: Image
    outputs: dict[nn.Module, list[Shapes]]
    makers: dict[Origin, Origin]
    normalised: dict[nn.Module, _BatchNorm]


def observe(model: nn.Module, example_input: Any = None) -> Observation:
    """Return what every module returns in a dry run of the model. Raises as `dry_run` does."""
    outputs: dict[nn.Module, list[Shapes]] = {}
    makers: dict[Origin, Origin] = {}
    normalised: dict[nn.Module, _BatchNorm] = {}
    seen: dict[int, tuple[weakref.ref[Tensor], Origin]] = {}

    def maker_of(tensor: Tensor) -> Origin | None:
        known, maker = seen.get(id(tensor), (None, None))
        return maker if known is not None and known() is tensor else None  # Python reuses ids

    def note(module: nn.Module, args: Any, output: Any) -> None:
        outputs.setdefault(module, []).append(_shapes(output, isinstance(module, IMAGE_LAYERS)))
        if isinstance(module, _BatchNorm) and args and (maker := maker_of(args[0])):
            normalised.setdefault(maker[0], module)
        for element, tensor in _elements(output) or [(None, output)]:
            if not isinstance(tensor, Tensor):
                continue
            if (maker := maker_of(tensor)) is None:
                seen[id(tensor)] = weakref.ref(tensor), (module, element)
            elif element is not None:
                makers[module, element] = maker

    with ExitStack() as hooks:
        for module in model.modules():
            if not isinstance(module, torch.jit.ScriptModule):  # accepts no hooks
                hooks.enter_context(module.register_forward_hook(note))
        image = dry_run(model, example_input)
    return Observation(model, image, outputs, makers, normalised)


def dry_run(model: nn.Module, example_input: Any = None) -> Image:
    """Run the model once, in evaluation mode, without gradients and without changing it, and return the images' size.

    Raises ValueError where there is no input to run it on, or where it fails.
    """
    args, kwargs = _arguments(model, example_input)
    image = _image((*args, *kwargs.values()))
    with _evaluating(model), _uncompiled(), torch.no_grad():
        try:
            model(*args, **kwargs)
        except Exception as error:
            given = "the given example_input" if example_input is not None else f"zeros of {tuple(args[0].shape)}"
            raise ValueError(f"the model failed on {given}; give an example_input that it accepts: {error}") from error
    return image


def _arguments(model: nn.Module, example_input: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if example_input is None:
        return (_default_input(model),), {}
    if isinstance(example_input, Mapping):
        return (), dict(example_input)
    return (tuple(example_input) if isinstance(example_input, (tuple, list)) else (example_input,)), {}


def _default_input(model: nn.Module) -> Tensor:
    """Return two black images (2, C, H, W): H and W from timm's configuration, C from the network itself."""
    host = feature_host(model)
    config = getattr(host, "pretrained_cfg", None) or {}
    size = config.get("input_size")
    if host is None or size is None:
        raise ValueError("example_input is needed: the model has no timm configuration with the size of its input")
    height, width = getattr(getattr(host, "patch_embed", None), "img_size", None) or size[1:]
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    return torch.zeros(2, _channels(host, size[0]), height, width, device=like.device, dtype=like.dtype)


def _channels(host: nn.Module, configured: int) -> int:
    """Return the channels of the images that the network was built for; its configuration may not know them."""
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
    """Yield the contents of lists, tuples and mappings, however deeply nested."""
    parts = _elements(value)
    if not parts:
        yield value
    for _, part in parts:
        yield from _leaves(part)


def _shapes(output: Any, channels_first: bool = False) -> Shapes:
    if isinstance(output, Tensor):
        return ChannelsFirst(output.shape) if channels_first else tuple(output.shape)
    parts = _elements(output)
    return {element: _shapes(part) for element, part in parts} if parts else None


def _elements(output: Any) -> list[tuple[Element, Any]]:
    """Return the contents of a list, tuple or mapping, each with its index or key; [] for anything else."""
    if isinstance(output, Mapping):
        return list(output.items())
    return list(enumerate(output)) if isinstance(output, (tuple, list)) else []


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Set evaluation mode inside, each module's own mode afterwards.

    Sets the flag itself: a module's own `train()` may do more, such as merging an adapter's weights.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, training in modes:
            module.training = training


def _uncompiled() -> AbstractContextManager[Any]:
    """Compiled models run uncompiled inside: code compiled earlier calls no hooks that were added since."""
    imported = "torch._dynamo" in sys.modules  # importing it takes seconds
    return torch.compiler.set_stance("force_eager") if imported else nullcontext()
