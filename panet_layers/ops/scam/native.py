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
from ..native.tensors import threads_for
from ..precision import accumulation_dtype
from .tensors import NativeSaved, Parameters, Running, empty_native_saved

# The fields of `scam_call` in native/scam_job.h; then those of `scam_forward` and of `scam_backward`.
_CALL = "13Q10qd"
_FORWARD, _BACKWARD = Struct(_CALL + "Q"), Struct(_CALL + "9Q")
_STORED_AS = {torch.bfloat16: 1, torch.float16: 2}  # other inputs: 0, as they are computed
_SMALL = 1 << 15  # elements that one thread computes sooner than it would start others


def forward(
    x: Tensor, params: Parameters, running: Running, batch_statistics: bool, eps: float
) -> tuple[Tensor, NativeSaved]:
    """Return the attended map, like x (B, C, H, W), and what the backward needs.

    The logits are normalised by the batch's statistics or by the running ones.
    """
    result = torch.empty_like(x)
    saved = empty_native_saved(x, params)
    if x.numel() == 0:
        return result, NativeSaved(*(t.zero_() for t in saved))
    dtype = accumulation_dtype(x.dtype)
    params = _converted(params, dtype)
    running = _converted(running, dtype)
    given, x, channels_last = x, *_dense(x)
    out = result if given is x else torch.empty_like(x)
    sizes, scratch = _sizes(x, params, channels_last, batch_statistics, eps), None
    scratch = saved.saved.new_empty(_scratch_sizes(dtype, *sizes)[1])
    pointers = [0 if t is None else t.data_ptr() for t in (x, *saved, scratch, *params, *running)]
    _function("scam_forward", dtype)(_FORWARD.pack(*pointers, *sizes, out.data_ptr()))
    return (result if out is result else result.copy_(out)), saved


def backward(
    grad: Tensor, x: Tensor, params: Parameters, saved: NativeSaved, batch_statistics: bool, eps: float
) -> tuple[Tensor, Parameters]:
    """Return the gradients of x and of the parameters (None stays None), for the gradient of the output."""
    result = torch.empty_like(x)
    if x.numel() == 0:
        return result, Parameters._make(None if p is None else torch.zeros_like(p) for p in params)
    dtype = accumulation_dtype(x.dtype)
    given_params, params = params, _converted(params, dtype)
    given, x, channels_last = x, *_dense(x)
    grad = grad.contiguous(memory_format=torch.contiguous_format if x.is_contiguous() else torch.channels_last)
    dx = result if given is x else torch.empty_like(x)
    gradients = Parameters._make(None if p is None else torch.empty_like(p) for p in params)
    sizes = _sizes(x, params, channels_last, batch_statistics, eps)
    scratch = saved.saved.new_empty(_scratch_sizes(dtype, *sizes)[2])
    tensors = (x, *saved, scratch, *params, None, None)
    pointers = [0 if t is None else t.data_ptr() for t in tensors]
    others = [0 if t is None else t.data_ptr() for t in (grad, dx, *gradients)]
    _function("scam_backward", dtype)(_BACKWARD.pack(*pointers, *sizes, *others))
    return (result if dx is result else result.copy_(dx)), gradients.like(given_params)


def _converted(tensors: Any, dtype: torch.dtype) -> Any:
    """Return the named tuple of parameters with all of them contiguous, in this dtype."""
    if all(t is None or (t.dtype is dtype and t.is_contiguous()) for t in tensors):
        return tensors
    return type(tensors)._make(None if t is None else t.to(dtype).contiguous() for t in tensors)


def _dense(x: Tensor) -> tuple[Tensor, bool]:
    """Return x in a layout that the kernels read, a copy only if needed, and whether channels are innermost."""
    if x.is_contiguous():
        return x, x.shape[2] == x.shape[3] == 1  # a single pixel: both layouts, and channels are the longer row
    if x.is_contiguous(memory_format=torch.channels_last):
        return x, True
    return x.contiguous(), x.shape[2] == x.shape[3] == 1


def _sizes(x: Tensor, params: Parameters, channels_last: bool, batch_statistics: bool, eps: float) -> tuple:
    hidden, kernel = params.fc1.shape[0], params.conv.shape[3]
    stored_as = _STORED_AS.get(x.dtype, 0)
    return (*x.shape, hidden, kernel, stored_as, channels_last, batch_statistics, threads_for(x, _SMALL), eps)


@lru_cache(4096)
def _scratch_sizes(dtype: torch.dtype, *sizes: Any) -> tuple[int, int, int]:
    """Return the sizes of what is saved, and of the scratch of a forward and of a backward."""
    found = (ctypes.c_int64 * 3)()
    call = getattr(library(), f"scam_sizes_{_NAMES[dtype]}")
    call(Struct(_CALL).pack(*[0] * 13, *sizes), found)
    return tuple(found)  # type: ignore[return-value]


_NAMES = {torch.float32: "float", torch.float64: "double"}


@cache
def _function(name: str, dtype: torch.dtype) -> Callable[[bytes], None]:
    function = getattr(library(), f"{name}_{_NAMES[dtype]}")
    function.argtypes, function.restype = [ctypes.c_char_p], None
    return function
