"""Builds the network of a trial, from timm's name or a function of the user, and one arm of it from a seed."""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

import timm
import torch
from torch import nn

from deepfake.common.cli import UserError, first_line
from deepfake.dataset.batches import seed_for
from panet_layers import insert_attention
from panet_layers.insertion.costs import CostReport

from .arms import ARMS

INSERTED = "inserted_attention"
WEIGHTS, LAYERS, ORDER, DROPOUT = range(1, 5)  # what random numbers are for: each has a seed of its own


class Network(NamedTuple):
    """What is trained: the network's name, and where and how layers are inserted into it.

    name: timm's, or module:function, called with the number of classes.
    at, start: as in `insert_attention`.
    """

    name: str
    pretrained: bool
    at: str | Sequence[str]
    start: str
    image_size: int
    classes: int

    def plain(self, seed: int) -> nn.Module:
        """The network without layers, weights drawn from the seed. UserError if there is no such network."""
        torch.manual_seed(seed_for(seed, WEIGHTS))
        model = _of_function(self.name, self.classes) if ":" in self.name else _of_timm(*self[:2], self.classes)
        return model.float()

    def arm(self, name: str, seed: int) -> tuple[nn.Module, CostReport | None]:
        """An arm of the network: the same weights for every arm of a seed, and the layers' own.

        UserError, with the reason, if the layers cannot be inserted.
        """
        model, layer = self.plain(seed), ARMS[name].layer
        if layer is None:
            return model, None
        error = None
        # Proportions that are the images' first; where 32 x 32 x 32 could be read in two ways, others.
        for width in (self.image_size, 2 * self.image_size):
            torch.manual_seed(seed_for(seed, LAYERS))
            example = torch.zeros(2, 3, self.image_size, width)
            try:
                return model, insert_attention(model, self.at, layer, example_input=example, start=self.start)
            except ValueError as found:
                error = error or found
        raise UserError(f"{self.name}, {ARMS[name].title}: {first_line(error)}; --at says where layers go", 2)  # type: ignore[arg-type]

    def check(self) -> None:
        """UserError unless the network starts from its seed, takes images of this size and returns a number a class."""
        first = self.plain(0)
        if digest(first) != digest(self.plain(0)):
            raise UserError(f"{self.name}: its weights differ with the same torch.manual_seed, wanted the same", 2)
        try:
            with torch.no_grad():
                out = first.eval()(torch.zeros(2, 3, self.image_size, self.image_size))
        except Exception as error:  # anything can be inside
            size = f"3x{self.image_size}x{self.image_size}"
            raise UserError(f"{self.name}: does not take images of {size}: {first_line(error)}", 2) from error
        shape = tuple(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
        if shape != (2, self.classes):
            raise UserError(f"{self.name}: returned {shape} for 2 images, wanted (2, {self.classes})", 2)


def check_name(name: str, pretrained: bool) -> None:
    """UserError, before any image is read, unless it is timm's name, or module:function without timm's weights."""
    if ":" in name:
        if pretrained:
            raise UserError(f"--pretrained: loads weights of timm's networks, not of {name}; load them in it", 2)
    elif not timm.is_model(name):
        raise UserError(f"--network {name}: not a name of timm (wanted one, or module:function)", 2)


def shares(model: nn.Module) -> list[float]:
    """The share s of each inserted layer; empty for layers without one."""
    return [parameter.item() for name, parameter in model.named_parameters() if name.endswith(f"{INSERTED}.0.share")]


def trained_parameters(model: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def digest(model: nn.Module) -> str:
    """A hash of the network's own state, without that of inserted layers."""
    found = hashlib.sha256()
    for name, value in model.state_dict().items():
        if f"{INSERTED}." not in name:
            found.update(name.encode() + value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def _of_timm(name: str, pretrained: bool, classes: int) -> nn.Module:
    try:
        model = timm.create_model(name, pretrained=pretrained, num_classes=classes)
    except Exception as error:  # of the download or the family's own arguments
        raise UserError(f"--network {name}: {first_line(error)}", 2) from error
    return standardising(model) if pretrained else model


def standardising(model: nn.Module) -> nn.Module:
    """A network of timm that takes images in [-1, 1] and gives its weights the mean and deviation they know."""
    mean, std = (torch.tensor(model.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))  # type: ignore[index]

    def scale(model: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        images = (inputs[0] + 1) / 2
        return ((images - mean.to(images.device)) / std.to(images.device),)

    model.register_forward_pre_hook(scale)
    return model


def _of_function(name: str, classes: int) -> nn.Module:
    module, _, function = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        model = getattr(importlib.import_module(module), function)(classes)
    except Exception as error:  # anything can be inside
        raise UserError(f"--network {name}: {type(error).__name__}: {first_line(error)}", 2) from error
    if not isinstance(model, nn.Module):
        raise UserError(f"--network {name}: returned {type(model).__name__}, wanted an nn.Module", 2)
    return model
