"""What a run's config.json says: settings, data, model, versions and the machine."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

import panet_layers
from panet_layers.backends import resolve_backend
from panet_layers.measuring.machine import hardware, version

from ..common.cli import first_line
from ..dataset.images import Images
from ..dataset.subset import method_names
from .distributed import Processes
from .settings import Settings

SESSION = ("commit", "versions", "machine")
"""What may differ between the sessions of a run."""


def describe(settings: Settings, processes: Processes, model: nn.Module, images: Images) -> dict[str, Any]:
    """The content of config.json."""
    return {
        "arguments": asdict(settings),
        "model": model.config,
        "image_size": settings.image_size,
        "data": {
            "description": images.description,
            "fingerprint": images.fingerprint,
            "methods": None if settings.methods is None else sorted(set(method_names(settings.methods))),
        },
        "processes": processes.world,
        "commit": _commit(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "panet_layers": panet_layers.__version__,
            "timm": timm.__version__,
            "triton": version("triton"),
        },
        "machine": machine(processes.device),
    }


def earlier_sessions(saved: dict[str, Any], config: dict[str, Any]) -> list[dict[str, Any]]:
    """Commits, versions and machines of a resumed run's sessions before this one, where they differ from the next."""
    earlier = saved.get("earlier")
    before, now = ({name: found.get(name) for name in SESSION} for found in (saved, config))
    return [*(earlier if isinstance(earlier, list) else []), *([] if before == now else [before])]


def machine(device: torch.device) -> dict[str, str | None]:
    """The device's name, the versions of CUDA and of its driver, and the backends that the layers take on it."""
    x = torch.empty(1, 8, 4, 4, device=device)
    driver = _said(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]) if x.is_cuda else None
    return {
        "device": hardware(device.type),
        "cuda": torch.version.cuda if x.is_cuda else None,
        "driver": driver.splitlines()[0] if driver else None,
        "emam": _backend(x, has_cuda=True),
        "scam": _backend(x, has_cuda=False),
    }


def _backend(x: torch.Tensor, has_cuda: bool) -> str:
    """What a layer would run by, or why it can't: a model without the layer trains all the same."""
    try:
        return resolve_backend(None, x, has_cuda)
    except RuntimeError as error:
        return first_line(error)


def _commit() -> str | None:
    """The git commit of this code, if it is in a git repository."""
    return _said(["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"])


def _said(command: Sequence[str]) -> str | None:
    """What a command prints; None where it is missing or fails."""
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() if found.returncode == 0 else None
