"""What the launchers of Triton kernels share: the device, the accumulation dtype, how much work fills a GPU."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import triton.language as tl
from torch import Tensor

from .precision import accumulation_dtype

ENOUGH_WARPS = 2048  # to fill a GPU


def accumulation(tensor: Tensor) -> tl.dtype:
    """Return Triton's name of the accumulation dtype for a tensor."""
    return tl.float64 if accumulation_dtype(tensor.dtype) == torch.float64 else tl.float32


def current_device(x: Tensor) -> AbstractContextManager:
    """Make x's GPU the current device: Triton launches kernels there. Nothing to do for CPU tensors."""
    return torch.cuda.device_of(x) if x.is_cuda else nullcontext()
