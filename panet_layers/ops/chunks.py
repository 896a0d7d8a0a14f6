"""How chunked.py walks through a (B, C, H, W) tensor: in chunks that stay in the processor's cache."""

from __future__ import annotations

import torch
from torch import Tensor

from .precision import accumulation_dtype

# A chunk passes through about twenty operations, so it and its scratch copies should stay in the cache.
CHUNK_BYTES = 16 << 20

# An input up to this size is not cut to save memory.
SMALL_BYTES = 1 << 20

# A row this short is summed faster by a matrix-vector product than by a reduction.
SHORT_ROW = 32

Chunk = tuple[slice, slice]


def cut(x: Tensor, groups: int, copies: float = 1.0) -> list[Chunk]:
    """Return slices over (samples, groups) that cut x into chunks of about CHUNK_BYTES; one chunk if x is not on a CPU.

    `copies` is a chunk's scratch memory in multiples of its size; it stays below the size of x unless x is small.
    """
    if x.numel() == 0:
        return []
    samples = x.shape[0]
    if x.device.type != "cpu":
        return [(slice(0, samples), slice(0, groups))]
    instance_bytes = x.shape[1] // groups * x.shape[2] * x.shape[3] * accumulation_dtype(x.dtype).itemsize
    total_bytes = instance_bytes * samples * groups
    limit = CHUNK_BYTES if total_bytes <= SMALL_BYTES else min(CHUNK_BYTES, int(0.9 * total_bytes / copies))
    instances = max(1, limit // instance_bytes)
    if instances >= groups:
        return [(chunk, slice(0, groups)) for chunk in _even_slices(samples, instances // groups)]
    return [(slice(b, b + 1), chunk) for b in range(samples) for chunk in _even_slices(groups, instances)]


def _even_slices(total: int, at_most: int) -> list[slice]:
    """Return slices of equal length, except the last; a multiple of the threads, so that all threads have work."""
    count = -(-total // at_most)
    length = -(-total // count)
    threads = torch.get_num_threads()
    if count > 1 and length > threads:
        length -= length % threads
    return [slice(start, min(start + length, total)) for start in range(0, total, length)]


class Scratch:
    """Buffers of one chunk's size, which every chunk uses again: to allocate new memory costs time."""

    def __init__(self, x: Tensor, chunks: list[Chunk], groups: int) -> None:
        self.x = x
        self.largest = max(((b.stop - b.start) * (g.stop - g.start) for b, g in chunks), default=0)
        self.shape = (x.shape[1] // groups, x.shape[2], x.shape[3])
        self.buffers: dict[str, Tensor] = {}

    def __call__(self, name: str, instances: int) -> Tensor:
        """Return the buffer `name` as (instances, K, H, W)."""
        if name not in self.buffers:
            dtype = accumulation_dtype(self.x.dtype)
            self.buffers[name] = self.x.new_empty((self.largest, *self.shape), dtype=dtype)
        return self.buffers[name][:instances]

    def in_place(self, out5: Tensor, chunk: Chunk) -> bool:
        """Return whether a chunk of the output (B, G, K, H, W) can be computed in its own memory."""
        part = out5[chunk]
        return part.is_contiguous() and part.dtype == accumulation_dtype(part.dtype)

    def result(self, out5: Tensor, chunk: Chunk) -> Tensor:
        """Return memory to compute a chunk of the output in, (N, K, H, W): its own, or a buffer that `store` copies."""
        part = out5[chunk]
        return part.flatten(0, 1) if self.in_place(out5, chunk) else self("result", part.shape[0] * part.shape[1])


def load(x5: Tensor, chunk: Chunk) -> Tensor:
    """Return a chunk of x (B, G, K, H, W) as contiguous (N, K, H, W) in the accumulation dtype; a view if possible."""
    part = x5[chunk]
    return part.to(accumulation_dtype(part.dtype)).contiguous().flatten(0, 1)


def store(out5: Tensor, chunk: Chunk, result: Tensor) -> None:
    """Copy a chunk computed in `Scratch.result` to the output, unless it was computed there."""
    part = out5[chunk]
    if result.data_ptr() != part.data_ptr():
        part.copy_(result.view(part.shape))


def row_sums(x: Tensor) -> Tensor:
    """Return the sums (N, K, H) over the rows of x (N, K, H, W), which is contiguous."""
    width = x.shape[3]
    if width > SHORT_ROW:
        return x.sum(3)
    return torch.mv(x.view(-1, width), x.new_ones(width)).view(x.shape[:3])
