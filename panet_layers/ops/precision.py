"""The dtype in which statistics, gates and sums are computed."""

import torch


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return float32 for half-precision inputs, else the input's own dtype."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
