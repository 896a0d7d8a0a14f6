"""What a measurement was made on: the processor's or GPU's name, and versions of packages."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path

import torch


def hardware(device: str) -> str:
    """Return the name of the GPU, or of the CPU with the number of its cores."""
    return torch.cuda.get_device_name() if device == "cuda" else _cpu_name()


def version(package: str) -> str:
    """Return the installed version of a package, or "none"."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")  # Linux only
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor() or platform.machine()
