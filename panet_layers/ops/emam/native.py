"""EMAM's forward and backward by the compiled CPU kernels, in ops/native: memory, and one call in each direction."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ..native.library import vector_bytes
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
from .tensors import Parameters, shapes_of_parameters

_SMALL = 1 << 13  # elements of an input up to which a second thread costs more than it saves
_POINTERS = struct.Struct("=18q")  # x to scratch in `emam_call` of emam.h
_SIZES = struct.Struct("=8qd")  # samples to eps
_SHARE = struct.Struct("=d")
_NO_GRADIENTS = (0,) * (len(Parameters._fields) + 1)  # addresses that a forward does not have


class NativeSaved(NamedTuple):
    """What the backward needs beside the input and the parameters: statistics in one row, in the accumulation dtype."""

    statistics: Tensor


class _Plan(NamedTuple):
    """What calls with inputs of one shape share."""

    sizes: bytes
    dtype: torch.dtype  # of statistics and scratch
    statistics: int  # in numbers, as the next two
    forward_scratch: int
    backward_scratch: int


def forward(
    x: Tensor, params: Parameters, groups: int, eps: float, share: Tensor | None = None
) -> tuple[Tensor, NativeSaved]:
    """Return the attended map, like x (B, C, H, W), and what the backward needs.

    With a share, lerp(x, the map, share) is returned in its place.
    """
    if x.numel() == 0:
        return torch.empty_like(x), NativeSaved(empty_native_saved(x, groups).statistics.zero_())
    given, (x, channels_last) = x, dense(x)
    check_shapes(params, shapes_of_parameters(x.shape[1] // groups), "EMAM")
    plan = _plan(x.shape, x.dtype, groups, channels_last, threads_for(x, _SMALL), eps)
    params = ready(params, plan.dtype)
    out, statistics = torch.empty_like(x), x.new_empty(plan.statistics, dtype=plan.dtype)
    scratch = statistics.new_empty(plan.forward_scratch)
    of_x, of_out, *others = addresses(x, out, *params, statistics, scratch)
    call = _POINTERS.pack(of_x, 0, of_out, *others[:-2], *_NO_GRADIENTS, *others[-2:])
    entry("emam_forward", x.dtype)(call + plan.sizes + _SHARE.pack(number(share)))
    return like(given, out), NativeSaved(statistics)


def backward(
    grad: Tensor, x: Tensor, params: Parameters, saved: NativeSaved, groups: int, share: Tensor | None = None
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """Return the gradients of x, of the parameters and of the share, for the gradient of the output (B, C, H, W)."""
    if x.numel() == 0:
        return torch.empty_like(x), zeros((*params, share))
    given, (x, channels_last) = x, dense(x)
    grad, _ = dense(grad, channels_last)
    check_shapes(params, shapes_of_parameters(x.shape[1] // groups), "EMAM")
    plan = _plan(x.shape, x.dtype, groups, channels_last, threads_for(x, _SMALL), 0.0)
    check_saved(grad, x, saved.statistics, plan.statistics)
    given_params, params = params, ready(params, plan.dtype)
    gradients = Parameters(*map(torch.empty_like, params))
    dx, scratch = torch.empty_like(x), saved.statistics.new_empty(plan.backward_scratch)
    of_share = None if share is None else share.new_empty(share.shape, dtype=plan.dtype)
    pointers = addresses(x, grad, dx, *params, *gradients, of_share, saved.statistics, scratch)
    entry("emam_backward", x.dtype)(_POINTERS.pack(*pointers) + plan.sizes + _SHARE.pack(number(share)))
    return like(given, dx), (*gradients.like(given_params), like_share(of_share, share))


def empty_native_saved(x: Tensor, groups: int) -> NativeSaved:
    """Return memory for `NativeSaved`, as emam.h divides it."""
    return NativeSaved(x.new_empty(_statistics(x.shape, x.dtype, groups), dtype=accumulation_dtype(x.dtype)))


def _statistics(shape: Sequence[int], dtype: torch.dtype, groups: int) -> int:
    batch, channels, height, width = shape
    lanes = vector_bytes() // accumulation_dtype(dtype).itemsize
    sides = (height + width + lanes - 1) // lanes * lanes
    return batch * (channels * (2 * sides + 3) + groups * height * width) + lanes  # vectors may be read past the end


@lru_cache(maxsize=256)
def _plan(
    shape: Sequence[int], dtype: torch.dtype, groups: int, channels_last: bool, threads: int, eps: float
) -> _Plan:
    sizes = _SIZES.pack(*(shape[0], shape[1], groups, *shape[2:]), DTYPES[dtype], channels_last, threads, eps)
    call = _POINTERS.pack(*[0] * 18) + sizes + _SHARE.pack(1)
    scratch = (entry(f"emam_{name}_scratch", dtype)(call) for name in ("forward", "backward"))
    return _Plan(sizes, accumulation_dtype(dtype), _statistics(shape, dtype, groups), *scratch)
