"""How the programs share a sample: tiles, splits of a sum, and what the code is compiled for."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...launching import accumulation

WARPS = 4
TILE = 2048  # elements, 16 a thread: enough loads in flight, and room for three accumulators in registers
SHORT = 256  # elements that a sum has at most to be a short one
PROGRAMS_PER_PROCESSOR = 4  # fewer than that leave loads idle: then several programs share a sum
PROCESSORS_IF_UNKNOWN = 132  # of an H100; under Triton's interpreter
WIDE = 2**31  # elements of a sample from which offsets in it take 64 bits
SIZES = ["batch", "channels", "pixels", "kept", "reduced", "splits", "steps", "size"]  # never compiled in


def sizes(x: Tensor) -> tuple[int, int, int]:
    """Samples, channels, pixels."""
    return x.shape[0], x.shape[1], x.shape[2] * x.shape[3]


def channels_last(x: Tensor) -> bool:
    return not x.is_contiguous()


def constants(x: Tensor) -> dict[str, Any]:
    """What the code for tensors like x is compiled for, whichever way it walks."""
    _, channels, pixels = sizes(x)
    return {
        "ALIGNMENT": math.gcd(16 // x.element_size(), channels if channels_last(x) else pixels),
        "ACC": accumulation(x),
        "INDEX": tl.int32 if channels * pixels < WIDE else tl.int64,
    }


def layout(x: Tensor) -> dict[str, Any]:
    return {"CHANNELS_LAST": channels_last(x), **constants(x)}


def cut(rows: int, columns: int, along: int | None = None, elements: int | None = None) -> tuple[int, int]:
    """A tile's rows and columns: TILE elements, `along` in a row, fewer where the input is small.

    A warp along the row keeps sums down a column within a thread: 32 columns, or 64 where threads load vectors.
    """
    width = min(along or (64 if columns % 4 == 0 else 32), triton.next_power_of_2(columns))
    return min((elements or TILE) // width, triton.next_power_of_2(rows)), width


def cover(x: Tensor) -> tuple[tuple[int], dict[str, int]]:
    """The grid that covers x once, and its tiles."""
    batch, channels, pixels = sizes(x)
    if channels_last(x):
        tile_pixels, tile_channels = cut(pixels, channels, along=128, elements=TILE // 2)
    else:
        tile_channels, tile_pixels = cut(channels, pixels, along=128, elements=TILE // 2)
    programs = batch * triton.cdiv(channels, tile_channels) * triton.cdiv(pixels, tile_pixels)
    return (programs,), {"BLOCK_CHANNELS": tile_channels, "BLOCK_PIXELS": tile_pixels, "num_warps": 1}


def share(x: Tensor, kept: int, reduced: int, tile: tuple[int, int]) -> tuple[int, int, int]:
    """How programs share the sums: their number, splits of a sum, and tiles that a program walks over.

    A program keeps a block of `kept` and walks along `reduced`, as a whole if that gives work to the entire GPU.
    """
    programs, tiles = x.shape[0] * triton.cdiv(kept, tile[0]), triton.cdiv(reduced, tile[1])
    splits = min(tiles, max(1, round(PROGRAMS_PER_PROCESSOR * _processors(x.device) / programs)))
    steps = triton.cdiv(tiles, splits)
    splits = triton.cdiv(tiles, steps)
    return programs * splits, splits, steps


def cut_along(x: Tensor, rows: int, columns: int, along: int | None = None) -> tuple[int, int]:
    """A tile's rows and columns for sums along the rows; `along` columns unless the rows are short.

    A program ends with an exchange between the lanes of a row: a short row pays less for it in a narrow, high tile, as
    long as such tiles give work to the entire GPU.
    """
    for width in (16, 32):
        tile = cut(rows, columns, along=width)
        if columns <= SHORT and share(x, rows, columns, tile)[1] == 1:
            return tile
    return cut(rows, columns, along)


def cut_down(x: Tensor, rows: int, columns: int) -> tuple[int, int]:
    """A tile's columns and rows for sums down the columns.

    128 columns have the lanes of all warps beside each other: what loads no vectors then needs no exchange between
    warps, and few rows are covered by low tiles.
    """
    tile = cut(rows, columns, along=128)[::-1]
    if (columns % 4 != 0 or rows <= SHORT) and share(x, columns, rows, tile)[1] == 1:
        return tile
    return cut(rows, columns)[::-1]


def share_of_maps(x: Tensor) -> tuple[tuple[int, int], int, int, int]:
    """The tile of `contract_maps` (channels, pixels), and how programs share its sums."""
    _, channels, pixels = sizes(x)
    tile = cut_down(x, pixels, channels) if channels_last(x) else cut_along(x, channels, pixels)
    return tile, *share(x, channels, pixels, tile)


@functools.cache
def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return PROCESSORS_IF_UNKNOWN
    return torch.cuda.get_device_properties(device).multi_processor_count
