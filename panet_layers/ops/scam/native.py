"""SCAM's forward and backward by compiled CPU kernels: memory, and the arguments of one call in each direction."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache, lru_cache
from struct import Struct
from typing import Any

import torch
from torch import Tensor

from ..native.library import library
from ..native.tensors import addresses, threads_for
from ..precision import accumulation_dtype
from .tensors import NativeSaved, Parameters, Running, empty_native_saved

# The fields of `scam_call` in native/scam_job.h; then those of `scam_forward` and of `scam_backward`.
_CALL, _FORWARD, _BACKWARD = (Struct("13Q10qd" + others) for others in ("", "Q", "9Q"))
_STORED_AS = {torch.bfloat16: 1, torch.float16: 2}  # other inputs: 0, as they are computed
_SMALL = 1 << 15  # elements that one thread computes sooner than it would start others


def forward(
    x: Tensor, params: Parameters, running: Running, batch_statistics: bool, eps: float
) -> tuple[Tensor, NativeSaved]:
    """Return the attended map, like x (B, C, H, W), and what the backward needs.

    The logits are normalised by the batch's statistics or by the running ones.
    """
    if x.numel() == 0:
        return torch.empty_like(x), NativeSaved(*(t.zero_() for t in empty_native_saved(x, params)))
    given, x, channels_last = x, *_dense(x)
    out, dtype = torch.empty_like(x), accumulation_dtype(x.dtype)
    params = _converted(params, dtype)
    if running.mean is not None:
        running = _converted(running, dtype)
    sizes = _sizes(x, params, channels_last, batch_statistics, eps)
    of_saved, of_scratch, _ = _memory(dtype, sizes)
    saved = NativeSaved(x.new_empty(of_saved, dtype=dtype), x.new_empty(2, dtype=dtype))
    scratch = x.new_empty(of_scratch, dtype=dtype)
    *pointers, to = addresses(x, *saved, scratch, *params, *running, out)
    _function("scam_forward", dtype)(_FORWARD.pack(*pointers, *sizes, to))
    return (out if given is x else torch.empty_like(given).copy_(out)), saved


def backward(
    grad: Tensor, x: Tensor, params: Parameters, saved: NativeSaved, batch_statistics: bool, eps: float
) -> tuple[Tensor, Parameters]:
    """Return the gradients of x and of the parameters (None stays None), for the gradient of the output."""
    if x.numel() == 0:
        return torch.empty_like(x), Parameters._make(None if p is None else torch.zeros_like(p) for p in params)
    given, x, channels_last = x, *_dense(x)
    grad = grad.contiguous(memory_format=torch.contiguous_format if x.is_contiguous() else torch.channels_last)
    dx, dtype = torch.empty_like(x), accumulation_dtype(x.dtype)
    given_params, params = params, _converted(params, dtype)
    gradients = Parameters._make(None if p is None else torch.empty_like(p) for p in params)
    sizes = _sizes(x, params, channels_last, batch_statistics, eps)
    scratch = x.new_empty(_memory(dtype, sizes)[2], dtype=dtype)
    pointers = addresses(x, *saved, scratch, *params, None, None, grad, dx, *gradients)
    _function("scam_backward", dtype)(_BACKWARD.pack(*pointers[:13], *sizes, *pointers[13:]))
    if given_params is not params:
        gradients = gradients.like(given_params)
    return (dx if given is x else torch.empty_like(given).copy_(dx)), gradients


def _converted(tensors: Any, dtype: torch.dtype) -> Any:
    """Return a named tuple of tensors with all of them contiguous, in this dtype; the same one where they are so."""
    for t in tensors:
        if t is not None and (t.dtype is not dtype or not t.is_contiguous()):
            return type(tensors)._make(None if t is None else t.to(dtype).contiguous() for t in tensors)
    return tensors


def _dense(x: Tensor) -> tuple[Tensor, bool]:
    """Return x in a layout that the kernels read, a copy only if needed, and whether channels are innermost."""
    if x.is_contiguous():
        return x, x.shape[2] == x.shape[3] == 1  # a single pixel: both layouts, and channels are the longer row
    if x.is_contiguous(memory_format=torch.channels_last):
        return x, True
    return x.contiguous(), x.shape[2] == x.shape[3] == 1


def _sizes(x: Tensor, params: Parameters, channels_last: bool, batch_statistics: bool, eps: float) -> tuple[Any, ...]:
    """Return the fields of `scam_call` that are no pointers."""
    stored_as, hidden, kernel = _STORED_AS.get(x.dtype, 0), params.fc1.shape[0], params.conv.shape[3]
    return *x.shape, hidden, kernel, stored_as, channels_last, batch_statistics, threads_for(x, _SMALL), eps


@lru_cache(4096)
def _memory(dtype: torch.dtype, sizes: tuple[Any, ...]) -> tuple[int, int, int]:
    """Return how many numbers are saved, and how many are scratch of a forward and of a backward."""
    found = (ctypes.c_int64 * 3)()
    _function("scam_sizes", dtype)(_CALL.pack(*[0] * 13, *sizes), found)
    return tuple(found)  # type: ignore[return-value]


@cache
def _function(name: str, dtype: torch.dtype) -> Callable[..., None]:
    function = getattr(library(), f"{name}_{'double' if dtype is torch.float64 else 'float'}")
    function.restype = None
    return function
