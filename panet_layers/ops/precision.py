"""The dtype in which statistics, gates and sums are computed, and the way out of autocast."""

from contextlib import AbstractContextManager, nullcontext

import torch


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return float32 for half-precision inputs, else the input's own dtype."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def without_autocast(device: str) -> AbstractContextManager:
    """Return a context without autocast for this type of device."""
    # To enter autocast's own context costs as much as a small operation.
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()
