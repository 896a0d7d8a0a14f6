"""What both sets of EMAM's kernels share."""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

ENOUGH_WARPS = 2048  # to fill a GPU


def accumulation(small: Tensor) -> tl.dtype:
    """The dtype that kernels compute in, as Triton names it: that of the small tensors."""
    return tl.float64 if small.dtype == torch.float64 else tl.float32
