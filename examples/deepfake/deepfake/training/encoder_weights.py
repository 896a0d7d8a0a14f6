"""The ImageNet weights that the encoder starts from: timm downloads them once, or they are read from a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from panet_layers.models.detector import check_weights_fit

from ..common.cli import UserError, first_line
from ..common.files import check_regular

CLASSIFIER = ("fc.", "last_linear.")  # ImageNet's, which no detector has


def cached_file() -> Path | None:
    """Where timm looks for the file before it downloads it; None where this version of timm has it elsewhere."""
    url = getattr(timm.get_pretrained_cfg("legacy_xception"), "url", None)
    return Path(torch.hub.get_dir(), "checkpoints", os.path.basename(url)) if isinstance(url, str) else None


def load_encoder(encoder: nn.Module, file: Path) -> None:
    """Load a file of timm's legacy_xception, or of its encoder. UserError that names the file where it does not fit."""
    check_regular(file, "file")
    weights = {name: value for name, value in _read(file).items() if not name.startswith(CLASSIFIER)}
    try:
        check_weights_fit({name: value.shape for name, value in encoder.state_dict().items()}, weights, str(file))
    except ValueError as error:
        raise UserError(f"{error} (wanted timm's legacy_xception)") from error
    encoder.load_state_dict(weights)


def _read(file: Path) -> dict[str, Tensor]:
    try:
        found: Any = load_file(file) if file.suffix == ".safetensors" else _load_pickled(file)
    except Exception as error:  # of a damaged file, torch raises nearly any
        raise UserError(f"{file}: cannot be read as weights ({first_line(error)})") from error
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise UserError(f"{file}: not a state dict (wanted timm's legacy_xception)")
    return found


def _load_pickled(file: Path) -> Any:
    return torch.load(file, map_location="cpu", weights_only=True)
