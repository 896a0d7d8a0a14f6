"""SCAM's forward and backward by compiled CPU kernels: memory, and the arguments of one call in each direction."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from struct import Struct
from typing import Any

import torch
from torch import Tensor

from ..native.tensors import (
    DTYPES,
    addresses,
    check_saved,
    check_shapes,
    dense,
    entry,
    like,
    like_share,
    number,
    ready,
    threads_for,
    zeros,
)
from ..precision import accumulation_dtype
from .tensors import NativeSaved, Parameters, Running, empty_native_saved, shapes_of_parameters

# The fields of `scam_call` in native/scam_job.h; then those of `scam_forward` and of `scam_backward`.
_CALL, _FORWARD, _BACKWARD = (Struct("13Q10q2d" + others) for others in ("", "Q", "10Q"))
_NO_STATISTICS = Running(None, None)
_SMALL = 1 << 15  # elements that one thread computes sooner than it would start others


def forward(
    x: Tensor,
    params: Parameters,
    running: Running,
    batch_statistics: bool,
    eps: float,
    share: Tensor | None = None,
) -> tuple[Tensor, NativeSaved]:
    """Return the attended map, like x (B, C, H, W), and what the backward needs.

    The logits are normalised by the batch's statistics or by the running ones. With a share, lerp(x, the map, share) is
    returned in its place.
    """
    if x.numel() == 0:
        return torch.empty_like(x), NativeSaved(*(t.zero_() for t in empty_native_saved(x, params)))
    _check_shapes(x, params, running)
    given, x, channels_last = x, *_dense(x)
    out, dtype = torch.empty_like(x), accumulation_dtype(x.dtype)
    params = ready(params, dtype)
    if running.mean is not None:
        running = ready(running, dtype)
    sizes = _sizes(x, params, channels_last, batch_statistics, eps)
    of_saved, of_scratch, _ = _memory(dtype, sizes)
    saved = NativeSaved(x.new_empty(of_saved, dtype=dtype), x.new_empty(2, dtype=dtype))
    scratch = x.new_empty(of_scratch, dtype=dtype)
    *pointers, to = addresses(x, *saved, scratch, *params, *running, out)
    entry("scam_forward", dtype)(_FORWARD.pack(*pointers, *sizes, number(share), to))
    return like(given, out), saved


def backward(
    grad: Tensor,
    x: Tensor,
    params: Parameters,
    saved: NativeSaved,
    batch_statistics: bool,
    eps: float,
    share: Tensor | None = None,
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """Return the gradients of x, the parameters and the share (None stays None), for the gradient of the output."""
    if x.numel() == 0:
        return torch.empty_like(x), zeros((*params, share))
    _check_shapes(x, params)
    given, x, channels_last = x, *_dense(x)
    grad, _ = dense(grad, not x.is_contiguous())
    dx, dtype = torch.empty_like(x), accumulation_dtype(x.dtype)
    given_params, params = params, ready(params, dtype)
    gradients = Parameters._make(None if p is None else torch.empty_like(p) for p in params)
    sizes = _sizes(x, params, channels_last, batch_statistics, eps)
    of_saved, _, of_scratch = _memory(dtype, sizes)
    check_saved(grad, x, saved.saved, of_saved)
    scratch = x.new_empty(of_scratch, dtype=dtype)
    of_share = None if share is None else share.new_empty(share.shape, dtype=dtype)
    pointers = addresses(x, *saved, scratch, *params, None, None, grad, dx, *gradients, of_share)
    entry("scam_backward", dtype)(_BACKWARD.pack(*pointers[:13], *sizes, number(share), *pointers[13:]))
    return like(given, dx), (*gradients.like(given_params), like_share(of_share, share))


def _dense(x: Tensor) -> tuple[Tensor, bool]:
    """Return what `dense` does, but a single pixel, which has both layouts, as channels_last: it has longer rows."""
    x, channels_last = dense(x)
    return x, channels_last or x.shape[2] == x.shape[3] == 1


def _check_shapes(x: Tensor, params: Parameters, running: Running = _NO_STATISTICS) -> None:
    """Raise ValueError where a parameter has another shape than the kernels read."""
    (hidden, *_), (*_, kernel) = params.fc1.shape or (0,), params.conv.shape or (0,)
    check_shapes(params, shapes_of_parameters(x.shape[1], hidden, kernel | 1), "SCAM")
    check_shapes(running, ((1,), (1,)), "SCAM")


def _sizes(x: Tensor, params: Parameters, channels_last: bool, batch_statistics: bool, eps: float) -> tuple[Any, ...]:
    """Return the fields of `scam_call` that are no pointers."""
    stored_as, hidden, kernel = DTYPES[x.dtype], params.fc1.shape[0], params.conv.shape[3]
    return *x.shape, hidden, kernel, stored_as, channels_last, batch_statistics, threads_for(x, _SMALL), eps


@lru_cache(4096)
def _memory(dtype: torch.dtype, sizes: tuple[Any, ...]) -> tuple[int, int, int]:
    """Return how many numbers are saved, and how many are scratch of a forward and of a backward."""
    found = (ctypes.c_int64 * 3)()
    entry("scam_sizes", dtype)(_CALL.pack(*[0] * 13, *sizes, 1), found)
    return tuple(found)  # type: ignore[return-value]
