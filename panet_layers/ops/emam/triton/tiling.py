"""How the programs share a map, by its sizes and strides."""

from __future__ import annotations

from math import gcd
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...launching import ENOUGH_WARPS, accumulation

MARGIN = tl.constexpr(8)  # columns that a block may reach beyond the map


class Tiling(NamedTuple):
    """How programs share maps: a block of channels, or of groups of them, by a block of columns by some rows."""

    constants: dict[str, Any]  # what the kernels are compiled for
    warps: int
    rows: int  # of a chunk
    channel_blocks: int
    column_blocks: int
    row_chunks: int

    @property
    def programs(self) -> int:
        """Return how many programs cover one sample."""
        return self.channel_blocks * self.column_blocks * self.row_chunks

    def side_parts(self, height: int, width: int) -> int:
        """Return how many partial sums a channel has: of each row by block of columns, of each column by chunk."""
        return self.column_blocks * height + self.row_chunks * width


def channel_tiling(x: Tensor) -> Tiling:
    """Return the tiling where no channel needs another one: a warp has up to 128 neighbours of x (B, C, H, W)."""
    channels = x.shape[1]
    lanes = min(triton.next_power_of_2(channels), 128)
    vector = _vector(max(1, min(4, lanes // 32)), x)
    constants = {"C": channels, "BLOCK_CHANNELS": lanes}
    return _tiling(constants, triton.cdiv(channels, lanes), lanes, 1, vector, 32, x)


def group_tiling(x: Tensor, k: int, *maps: Tensor, numbers: int = 32) -> Tiling:
    """Return the tiling where a program needs whole groups, for x and maps (B, C, H, W) of k channels a group.

    A block has as many groups as make 128 channels, or one; up to 128 channels make a warp, more make more.
    """
    channels = x.shape[1]
    groups, lanes = channels // k, triton.next_power_of_2(k)
    block = min(triton.next_power_of_2(groups), max(1, 128 // lanes))
    vector = _vector(max(1, min(4, lanes, lanes * block // 32)), x, *maps)
    if triton.next_power_of_2(k + vector - gcd(k, vector)) > lanes:
        vector = 1
    warps = min(max(1, lanes * block // 128), 16)
    constants = {"C": channels, "K": k, "BLOCK_CHANNELS": lanes, "BLOCK_GROUPS": block}
    return _tiling(constants, triton.cdiv(groups, block), lanes * block, warps, vector, numbers, x, *maps)


def _tiling(
    constants: dict[str, Any],
    channel_blocks: int,
    lanes: int,
    warps: int,
    vector: int,
    numbers: int,
    x: Tensor,
    *maps: Tensor,
) -> Tiling:
    """Return the tiling with `lanes` channels in a block.

    A thread holds `numbers` numbers of a tile, or half of them: its channels in some columns. The block of columns is
    the one that wastes least, each block costing as much as a column; the rows are cut so that ENOUGH_WARPS have
    work, but into no fewer than eight and no more than 32.
    """
    batch, channels, height, width = x.shape
    columns = max(1, numbers * 32 * warps // lanes // (2 if x.dtype == torch.float64 else 1))
    columns = min(columns, MARGIN.value, triton.next_power_of_2(width))
    columns = min(columns, max(1, columns // 2), key=lambda wide: triton.cdiv(width, wide) * (wide + 1))
    column_blocks = triton.cdiv(width, columns)
    wanted = triton.cdiv(ENOUGH_WARPS, batch * channel_blocks * column_blocks * warps)
    rows = triton.cdiv(height, max(triton.cdiv(height, 32), min(wanted, triton.cdiv(height, 8))))
    constants |= {"BLOCK_COLUMNS": columns, "VECTOR": vector, "ACC": accumulation(x)}
    constants["DENSE"] = width == 1 or all(t.stride(3) == channels for t in (x, *maps))
    return Tiling(constants, warps, rows, channel_blocks, column_blocks, triton.cdiv(height, rows))


def _vector(at_most: int, *maps: Tensor) -> int:
    """Return the longest vector, up to `at_most` and 16 bytes, that cuts the channels and starts at every pixel."""
    steps = [stride for t in maps for size, stride in zip(t.shape, t.stride()) if size > 1 and stride != 1]
    return gcd(at_most, *(16 // t.element_size() for t in maps), maps[0].shape[1], *steps)


def strides(t: Tensor) -> tuple[int, int, int]:
    """Return the strides of samples, rows and columns, 0 where there is one."""
    b, _, h, w = (stride if size > 1 else 0 for size, stride in zip(t.shape, t.stride()))
    return b, h, w


class Fold(NamedTuple):
    """How programs share the partial sums of rows and columns: a block of channels by a block of either."""

    constants: dict[str, Any]
    warps: int
    programs: int  # for one sample


def fold(t: Tiling, height: int, width: int) -> Fold:
    """Return how the parts of a tiling are added up: 32, 16 or 8 sides at a time, as many as pad little."""
    blocks = {size: triton.cdiv(height, size) + triton.cdiv(width, size) for size in (32, 16, 8)}
    sides = next((size for size, count in blocks.items() if size * count <= 1.25 * (height + width)), 8)
    channels = t.constants["C"]
    lanes = min(triton.next_power_of_2(channels), 128)
    channel_blocks = triton.cdiv(channels, lanes)
    constants = {"C": channels, "BLOCK_CHANNELS": lanes, "BLOCK_SIDES": sides, "ACC": t.constants["ACC"]}
    return Fold(constants, sides // 8, channel_blocks * blocks[sides])
