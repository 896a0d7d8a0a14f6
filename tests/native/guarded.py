"""Tensors whose memory begins after, or ends before, a page that must not be touched: to do so ends the process."""

from __future__ import annotations

import ctypes
import mmap
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_libc = ctypes.CDLL(None, use_errno=True)
NO_ACCESS = 0  # PROT_NONE of sys/mman.h
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def guarded(x: Tensor, end: bool) -> Tensor:
    """Return x in memory of its own, with its strides: before a page without access (`end`), or after one."""
    span = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride())) if x.numel() else 0
    if span == 0:
        return x
    copy = guarded_memory(span, x.dtype, end).as_strided(x.shape, x.stride())
    return copy.copy_(x)


def guarded_memory(count: int, dtype: torch.dtype, end: bool) -> Tensor:
    """Return `count` numbers of NaN beside a page without access."""
    size = count * dtype.itemsize
    pages = -(-size // mmap.PAGESIZE)
    memory = mmap.mmap(-1, (pages + 1) * mmap.PAGESIZE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    guard = start + (pages * mmap.PAGESIZE if end else 0)
    if _libc.mprotect(guard, mmap.PAGESIZE, NO_ACCESS):
        raise OSError(ctypes.get_errno(), "mprotect")
    offset = pages * mmap.PAGESIZE - size if end else mmap.PAGESIZE
    return torch.frombuffer(memory, dtype=dtype, count=count, offset=offset).fill_(float("nan"))


class _GuardedAllocations(TorchFunctionMode):
    """Everything that Python code allocates with torch lies beside a page without access."""

    def __init__(self, end: bool) -> None:
        super().__init__()
        self.end = end

    def __torch_function__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        return guarded(out, self.end) if function in (torch.empty, torch.empty_like, Tensor.new_empty) else out


@contextmanager
def guarded_allocations(end: bool):
    with _GuardedAllocations(end):
        yield
