"""Walking through a (B, C, H, W) tensor in pieces that stay in the processor's cache."""

from __future__ import annotations

import torch
from torch import Tensor

from .precision import accumulation_dtype

# A piece passes through about twenty operations, so it and its scratch copies should stay in the cache.
CHUNK_BYTES = 16 << 20

# Up to here an input is not cut for the sake of memory.
SMALL_BYTES = 1 << 20

# A row this short is summed faster by a matrix-vector product than by a reduction.
SHORT_ROW = 32

Piece = tuple[slice, slice]


def pieces(x: Tensor, groups: int, copies: float = 1.0) -> list[Piece]:
    """Slices over (samples, groups) that cut x into pieces of about CHUNK_BYTES; x in one piece off the CPU.

    `copies` says how many times its own size a piece needs in scratch memory: together less than x, if x isn't small.
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
        return [(piece, slice(0, groups)) for piece in _even_slices(samples, instances // groups)]
    return [(slice(b, b + 1), piece) for b in range(samples) for piece in _even_slices(groups, instances)]


def _even_slices(total: int, at_most: int) -> list[slice]:
    """Slices of equal length but for the last; a multiple of the threads, so that each thread keeps to its share."""
    count = -(-total // at_most)
    length = -(-total // count)
    threads = torch.get_num_threads()
    if count > 1 and length > threads:
        length -= length % threads
    return [slice(start, min(start + length, total)) for start in range(0, total, length)]


class Scratch:
    """Buffers of one piece's size, made when first asked for and used again by every piece: fresh memory costs time."""

    def __init__(self, x: Tensor, cuts: list[Piece], groups: int) -> None:
        self.x = x
        self.largest = max(((b.stop - b.start) * (g.stop - g.start) for b, g in cuts), default=0)
        self.shape = (x.shape[1] // groups, x.shape[2], x.shape[3])
        self.buffers: dict[str, Tensor] = {}

    def __call__(self, name: str, instances: int) -> Tensor:
        """The buffer `name` as (instances, K, H, W)."""
        if name not in self.buffers:
            dtype = accumulation_dtype(self.x.dtype)
            self.buffers[name] = self.x.new_empty((self.largest, *self.shape), dtype=dtype)
        return self.buffers[name][:instances]

    def in_place(self, out5: Tensor, piece: Piece) -> bool:
        """Whether a piece of the output (B, G, K, H, W) is laid out and typed so that it can be made where it stays."""
        part = out5[piece]
        return part.is_contiguous() and part.dtype == accumulation_dtype(part.dtype)

    def result(self, out5: Tensor, piece: Piece) -> Tensor:
        """Where to make a piece of the output, as (N, K, H, W): in place, or in a buffer that `store` copies from."""
        part = out5[piece]
        return part.flatten(0, 1) if self.in_place(out5, piece) else self("result", part.shape[0] * part.shape[1])


def load(x5: Tensor, piece: Piece) -> Tensor:
    """A piece of x (B, G, K, H, W) as contiguous (N, K, H, W) in the accumulation's dtype; a view where it can be."""
    part = x5[piece]
    return part.to(accumulation_dtype(part.dtype)).contiguous().flatten(0, 1)


def store(out5: Tensor, piece: Piece, result: Tensor) -> None:
    """Copy a piece made in `Scratch.result` to the output, unless it was made there."""
    part = out5[piece]
    if result.data_ptr() != part.data_ptr():
        part.copy_(result.view(part.shape))


def row_sums(x: Tensor) -> Tensor:
    """(N, K, H, W) contiguous -> (N, K, H)."""
    width = x.shape[3]
    if width > SHORT_ROW:
        return x.sum(3)
    return torch.mv(x.view(-1, width), x.new_ones(width)).view(x.shape[:3])
