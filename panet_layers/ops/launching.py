"""What the launchers of Triton kernels share: the accumulation dtype by its Triton name, how much work fills a GPU."""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from .precision import accumulation_dtype

ENOUGH_WARPS = 2048  # to fill a GPU


def accumulation(tensor: Tensor) -> tl.dtype:
    """Return Triton's name of the accumulation dtype for a tensor."""
    return tl.float64 if accumulation_dtype(tensor.dtype) == torch.float64 else tl.float32
