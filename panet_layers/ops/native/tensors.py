"""What the callers of the compiled kernels share: descriptions of tensors' memory, and the number of threads."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .library import library

DTYPES = {torch.float32: 0, torch.float64: 0, torch.bfloat16: 1, torch.float16: 2}  # as in storage.h


def dense(x: Tensor, channels_last: bool | None = None) -> tuple[Tensor, bool]:
    """Return x (B, C, H, W) as the kernels take it, contiguous or in channels_last, and whether it is the latter.

    It is a copy where x is neither, or not what `channels_last` asks for.
    """
    if channels_last is not True and x.is_contiguous():
        return x, False
    if channels_last is not False and x.is_contiguous(memory_format=torch.channels_last):
        return x, True
    if channels_last:
        return x.contiguous(memory_format=torch.channels_last), True
    return x.contiguous(), False


def like(given: Tensor, out: Tensor) -> Tensor:
    """Return `out` with the strides of torch.empty_like(given)."""
    if given.is_contiguous() or given.is_contiguous(memory_format=torch.channels_last):
        return out
    return torch.empty_like(given).copy_(out)


def ready(tensors: Any, dtype: torch.dtype) -> Any:
    """Return a named tuple of tensors, or None, contiguous and in this dtype: the same one if they are so already."""
    for t in tensors:
        if t is not None and (t.dtype is not dtype or not t.is_contiguous()):
            return type(tensors)._make(None if t is None else t.to(dtype).contiguous() for t in tensors)
    return tensors


def number(share: Tensor | None) -> float:
    """Return the share as a number; without one 1, with which lerp(x, out, share) is out."""
    return 1.0 if share is None else share.item()


def like_share(gradient: Tensor | None, share: Tensor | None) -> Tensor | None:
    """Return the share's gradient in the share's dtype; None without a share."""
    return None if gradient is None or share is None else gradient.to(share.dtype)


def zeros(tensors: Iterable[Tensor | None]) -> tuple[Tensor | None, ...]:
    """Return gradients of zero for these tensors, None for None."""
    return tuple(None if t is None else t.new_zeros(t.shape) for t in tensors)


def check_shapes(tensors: Any, wanted: tuple[tuple[int, ...], ...], layer: str) -> None:
    """Raise ValueError where a tensor of a named tuple has another shape than wanted; None has any."""
    for tensor, shape in zip(tensors, wanted):
        if tensor is not None and tensor.shape != shape:
            name = tensors._fields[[t is tensor for t in tensors].index(True)]
            raise ValueError(f"{layer}'s {name} must have shape {shape}, got {tuple(tensor.shape)}")


def check_saved(grad: Tensor, x: Tensor, saved: Tensor, size: int) -> None:
    """Raise ValueError where the gradient is not like the input, or `saved` is not what a forward of it returned."""
    if grad.shape != x.shape:
        raise ValueError(f"the gradient must have the input's shape {tuple(x.shape)}, got {tuple(grad.shape)}")
    if saved.shape != (size,):
        raise ValueError(f"what the forward saved must have shape {(size,)}, got {tuple(saved.shape)}")


@cache
def entry(name: str, dtype: torch.dtype) -> Callable[..., int]:
    """Return the library's function of this name for inputs of this dtype; it returns a size, or nothing."""
    function = getattr(library(), f"{name}_{'double' if dtype is torch.float64 else 'float'}")
    function.restype = ctypes.c_int64 if name.endswith("_scratch") else None
    return function


def addresses(*tensors: Tensor | None) -> list[int]:
    """Return where the tensors' memory is, 0 for None. Raise RuntimeError where a tensor has none, as FSDP's may."""
    found = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
    if 0 in found:
        for tensor, address in zip(tensors, found):
            if not address and tensor is not None and tensor.numel():
                raise RuntimeError(f"a tensor of shape {tuple(tensor.shape)} has no memory: its storage was freed")
    return found


def threads_for(x: Tensor, small: int) -> int:
    """Return the number of threads for an input: torch's, or one for at most `small` elements."""
    return 1 if x.numel() <= small else torch.get_num_threads()
