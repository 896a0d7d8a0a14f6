"""The ImageNet weights that the encoder starts from: timm downloads them once, or they are read from a file."""

from __future__ import annotations

import hashlib
import io
import os
import re
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load
from torch import Tensor, nn

from panet_layers.models.detector import check_weights_fit

from ..common.cli import UserError, first_line
from ..common.files import read_bytes

CLASSIFIER = ("fc.", "last_linear.")  # ImageNet's, which no detector has


def cached_file() -> Path | None:
    """Where timm looks for the file before it downloads it; None where this version of timm has it elsewhere."""
    url = getattr(timm.get_pretrained_cfg("legacy_xception"), "url", None)
    return Path(torch.hub.get_dir(), "checkpoints", os.path.basename(url)) if isinstance(url, str) else None


def digest_of(file: Path) -> str:
    """The SHA-256 of a file. UserError that names it if it cannot be read."""
    return hashlib.sha256(read_bytes(file)).hexdigest()


def is_timms(digest: str) -> bool:
    """Whether a file with this SHA-256 is the one that timm downloads, whose name ends in the first digits."""
    place = cached_file()
    digits = re.search(r"-([0-9a-f]{8,})$", place.stem) if place else None
    return digits is not None and digest.startswith(digits[1])


def load_encoder(encoder: nn.Module, file: Path) -> None:
    """Load a file of timm's legacy_xception, or of its encoder. UserError that names the file where it does not fit."""
    content = read_bytes(file)
    weights = {name: value for name, value in _read(file, content).items() if not name.startswith(CLASSIFIER)}
    try:
        check_weights_fit({name: value.shape for name, value in encoder.state_dict().items()}, weights, str(file))
    except ValueError as error:
        raise UserError(f"{error} (wanted timm's legacy_xception)") from error
    for name, value in encoder.state_dict().items():
        given = weights[name]
        if given.is_floating_point() != value.is_floating_point() or not torch.isfinite(given).all():
            raise UserError(f"{file}: {name} holds no finite numbers of the type {value.dtype}")
    encoder.load_state_dict(weights)


def _read(file: Path, content: bytes) -> dict[str, Tensor]:
    try:
        found: Any = load(content) if file.suffix == ".safetensors" else _load_pickled(content)
    except Exception as error:  # of a damaged file, torch raises nearly any
        raise UserError(f"{file}: cannot be read as weights ({first_line(error)})") from error
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict) or not all(map(_is_named_tensor, found.items())):
        raise UserError(f"{file}: not a state dict (wanted timm's legacy_xception)")
    return found


def _is_named_tensor(item: tuple[Any, Any]) -> bool:
    return isinstance(item[0], str) and isinstance(item[1], Tensor)


def _load_pickled(content: bytes) -> Any:
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
