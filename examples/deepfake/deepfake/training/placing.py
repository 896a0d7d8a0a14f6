"""Puts a model on its device, with weights and memory as they are fastest there."""

from __future__ import annotations

import ctypes
import os
import sys

import torch
from torch import nn

from ..common.workers import cores

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h


def place(model: nn.Module, device: torch.device, channels_last: bool) -> nn.Module:
    """The model on its device, with convolution weights in NHWC order if wanted."""
    if device.type == "cpu":
        keep_freed_memory()
    model = model.to(device)
    return model.to(memory_format=torch.channels_last) if channels_last else model


def choose_channels_last(wanted: bool | None, device: torch.device) -> bool:
    """What is wanted; None: NHWC order where the detectors were measured to be faster in it, on a CPU."""
    return device.type == "cpu" if wanted is None else wanted


def use_threads(wanted: int | None) -> None:
    """Compute with so many CPU threads. None: as OMP_NUM_THREADS says, which torch has read, else one per core."""
    if wanted or not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(wanted or cores())


def keep_freed_memory() -> None:
    """Let this process reuse the memory of large tensors: otherwise each is returned, and cleared page by page again.

    glibc does that above 32 MB. Without it, a third of the time of the paper's variant goes there in batches of 16.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)
