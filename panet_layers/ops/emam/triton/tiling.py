"""How the programs share a map, by its sizes and strides."""

from __future__ import annotations

from math import gcd
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...launching import ENOUGH_WARPS

MARGIN = tl.constexpr(8)  # columns that a block may reach beyond the map


class Tiling(NamedTuple):
    """How the programs share the map; a tile is BLOCK_COLUMNS x BLOCK_GROUPS groups x BLOCK_CHANNELS."""

    BLOCK_CHANNELS: int
    BLOCK_GROUPS: int
    BLOCK_COLUMNS: int
    CHANNEL_VECTOR: int
    warps: int
    rows: int  # of a chunk
    group_blocks: int
    column_blocks: int
    row_chunks: int

    @property
    def programs(self) -> int:
        """For one sample."""
        return self.group_blocks * self.column_blocks * self.row_chunks

    @property
    def blocks(self) -> tuple[int, int, int, int]:
        return self.rows, self.group_blocks, self.column_blocks, self.row_chunks


def tiling(x: Tensor, k: int, *maps: Tensor, numbers: int = 32, cost: int = 1) -> Tiling:
    """The tiling for (B, C, H, W) maps of k channels a group.

    A thread holds `numbers` numbers, or half of them: four channels (fewer if a block of groups has less than 128) of
    some columns; up to 128 channels make a warp, more make more. The block of columns is the one that wastes least,
    each block costing as much as `cost` columns; the rows are cut so that ENOUGH_WARPS have work, but into
    no fewer than eight and no more than 32.
    """
    batch, channels, height, width = x.shape
    groups = channels // k
    lanes = triton.next_power_of_2(k)
    group_block = min(triton.next_power_of_2(groups), max(1, 128 // lanes))
    vector = _vector(max(1, min(4, lanes, lanes * group_block // 32)), x, *maps)
    if triton.next_power_of_2(k + vector - gcd(k, vector)) > lanes:
        vector = 1
    warps = min(max(1, lanes * group_block // 128), 16)
    columns = max(1, numbers * 32 * warps // (lanes * group_block) // (2 if x.dtype == torch.float64 else 1))
    columns = min(columns, MARGIN.value, triton.next_power_of_2(width))
    column_block = min(columns, max(1, columns // 2), key=lambda wide: triton.cdiv(width, wide) * (wide + cost))
    group_blocks, column_blocks = triton.cdiv(groups, group_block), triton.cdiv(width, column_block)
    wanted = triton.cdiv(ENOUGH_WARPS, batch * group_blocks * column_blocks * warps)
    rows = triton.cdiv(height, max(triton.cdiv(height, 32), min(wanted, triton.cdiv(height, 8))))
    return Tiling(
        BLOCK_CHANNELS=lanes,
        BLOCK_GROUPS=group_block,
        BLOCK_COLUMNS=column_block,
        CHANNEL_VECTOR=vector,
        warps=warps,
        rows=rows,
        group_blocks=group_blocks,
        column_blocks=column_blocks,
        row_chunks=triton.cdiv(height, rows),
    )


def _vector(at_most: int, *maps: Tensor) -> int:
    """The longest vector of channels, up to `at_most` and 16 bytes, that every pixel of the maps starts at one of."""
    vector = at_most
    for t in maps:
        strides = [stride for size, stride in zip(t.shape, t.stride()) if size > 1 and stride != 1]
        vector = min(vector, 16 // t.element_size())
        while any(stride % vector for stride in strides):
            vector //= 2
    return vector


def strides(t: Tensor, vector: int = 1) -> tuple[int, int, int]:
    """Of samples, rows and columns, in vectors."""
    b, _, h, w = (stride // vector if size > 1 else 0 for size, stride in zip(t.shape, t.stride()))
    return b, h, w


def fold_tile(k: int, sides: int, slices: int) -> dict[str, int]:
    """Channels, rows and slices of the tile of a kernel that adds up partial sums, and its warps."""
    lanes = min(triton.next_power_of_2(k), 128)
    deep = min(triton.next_power_of_2(slices), 4)
    high = min(triton.next_power_of_2(sides), max(1, 4096 // (lanes * deep)))
    return {
        "BLOCK_CHANNELS": lanes,
        "BLOCK_SIDES": high,
        "SLICES": deep,
        "num_warps": min(max(1, lanes * high * deep // 512), 8),
    }
