"""Walking through a (B, C, H, W) tensor in pieces that stay in the processor's cache."""

from __future__ import annotations

import torch
from torch import Tensor

# A piece passes through about twenty operations, so it and its scratch copies should stay in the cache.
CHUNK_BYTES = 2 << 20

# A row this short is summed faster by a matrix-vector product than by a reduction.
SHORT_ROW = 32

Piece = tuple[slice, slice]


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of statistics and gates: float32 for half-precision inputs, else the input's own."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def pieces(x: Tensor, groups: int) -> list[Piece]:
    """Slices over (samples, groups) that cut x into pieces of about CHUNK_BYTES; x in one piece off the CPU."""
    if x.numel() == 0:
        return []
    samples = x.shape[0]
    if x.device.type != "cpu":
        return [(slice(0, samples), slice(0, groups))]
    instance_bytes = x.shape[1] // groups * x.shape[2] * x.shape[3] * accumulation_dtype(x.dtype).itemsize
    instances = max(1, CHUNK_BYTES // instance_bytes)
    if instances >= groups:
        return [(piece, slice(0, groups)) for piece in _even_slices(samples, instances // groups)]
    return [(slice(b, b + 1), piece) for b in range(samples) for piece in _even_slices(groups, instances)]


def _even_slices(total: int, at_most: int) -> list[slice]:
    count = -(-total // at_most)
    edges = [i * total // count for i in range(count + 1)]
    return [slice(start, stop) for start, stop in zip(edges, edges[1:])]


class Scratch:
    """Buffers of one piece's size, allocated once and used again for every piece: fresh memory costs page faults."""

    def __init__(self, x: Tensor, cuts: list[Piece], groups: int, buffers: int) -> None:
        largest = max(((b.stop - b.start) * (g.stop - g.start) for b, g in cuts), default=0)
        self.shape = (x.shape[1] // groups, x.shape[2], x.shape[3])
        self.memory = x.new_empty((buffers, largest, *self.shape), dtype=accumulation_dtype(x.dtype))

    def __call__(self, index: int, instances: int) -> Tensor:
        """Buffer `index` as (instances, K, H, W)."""
        return self.memory[index, :instances]


def load(x5: Tensor, piece: Piece) -> Tensor:
    """A piece of x (B, G, K, H, W) as contiguous (N, K, H, W) in the accumulation's dtype; a view where it can be."""
    part = x5[piece]
    return part.to(accumulation_dtype(part.dtype)).contiguous().flatten(0, 1)


def target(out5: Tensor, piece: Piece, scratch: Tensor) -> Tensor:
    """Where to write a piece of the output: straight into it if it is laid out as (N, K, H, W), else `scratch`."""
    part = out5[piece]
    return part.flatten(0, 1) if part.is_contiguous() and part.dtype == scratch.dtype else scratch


def store(out5: Tensor, piece: Piece, values: Tensor) -> None:
    """Copy `values` (N, K, H, W) to the output, unless `target` had them written there."""
    part = out5[piece]
    if values.data_ptr() != part.data_ptr():
        part.copy_(values.view(part.shape))


def row_sums(x: Tensor) -> Tensor:
    """(N, K, H, W) contiguous -> (N, K, H)."""
    if x.shape[3] > SHORT_ROW:
        return x.sum(3)
    return torch.mv(x.view(-1, x.shape[3]), x.new_ones(x.shape[3])).view(x.shape[:3])
