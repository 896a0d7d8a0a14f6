"""The Triton kernels that pass over SCAM's input, and their launchers.

A sample is a matrix in memory: C rows of P = H * W pixels or, in channels_last, P rows of C channels. A program walks
over tiles of it, lanes along the row; which axis is the channels' is a constant of the code, so both layouts share one
source. Sizes are run-time arguments; compiled in are a tile's extents (powers of two) and, for loads of up to 16 bytes,
the largest power of two that divides a row. Sums over several programs' tiles go through a buffer and are added up in a
fixed order: nothing here is atomic.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..chunks import accumulation_dtype

WARPS = 4
TILE = 2048  # elements, 16 a thread: enough loads in flight, and room for three accumulators in registers
PROGRAMS_PER_PROCESSOR = 4  # fewer than that leave loads idle: then several programs share a sum
PROCESSORS_IF_UNKNOWN = 132  # of an H100; under Triton's interpreter
WIDE = 2**31  # elements of a sample from which offsets in it take 64 bits
SIZES = ["batch", "channels", "pixels", "kept", "reduced", "splits", "steps", "size"]  # never compiled in


class Norm(NamedTuple):
    """What normalises the logits: mean and variance (2), scale (1) and shift (1), None for no normalisation, eps."""

    moments: Tensor
    weight: Tensor | None
    bias: Tensor | None
    eps: float

    def constants(self) -> dict[str, Any]:
        """What a kernel that asks for `pixel_gate` is compiled for."""
        return {"NORM": self.weight is not None, "EPS": self.eps}


@triton.jit
def place(middle, inner):
    """This program's outer, middle and inner index: all on the grid's axis x, the one that reaches to 2^31."""
    program = tl.program_id(0)
    return (program // inner // middle).to(tl.int64), program // inner % middle, program % inner


@triton.jit
def normalise(logits, moments, EPS: tl.constexpr):
    return (logits - tl.load(moments)) * (1 / tl.sqrt(tl.load(moments + 1) + EPS))


@triton.jit
def pixel_gate(logits, moments, weight, bias, NORM: tl.constexpr, EPS: tl.constexpr):
    """The spatial attention, from the convolution's output."""
    if NORM:
        logits = normalise(logits, moments, EPS) * tl.load(weight) + tl.load(bias)
    return tl.sigmoid(logits)


@triton.jit
def _aligned(channels, pixels, CHANNELS_LAST: tl.constexpr, ALIGNMENT: tl.constexpr):
    """The same two numbers, a row's length in a form that shows the compiler its divisor."""
    if CHANNELS_LAST:
        channels = channels // ALIGNMENT * ALIGNMENT
    else:
        pixels = pixels // ALIGNMENT * ALIGNMENT
    return channels, pixels


@triton.jit
def _offsets(c, p, channels, pixels, CHANNELS_LAST: tl.constexpr, INDEX: tl.constexpr):
    """Of the elements (channel, pixel) of a tile within their sample."""
    if CHANNELS_LAST:
        return p.to(INDEX)[None, :] * channels + c[:, None]
    else:
        return c.to(INDEX)[:, None] * pixels + p[None, :]


@triton.jit
def _take_maximum(value, index, best, position):
    """The running maximum and its position after one more value, lane by lane; the first one stays, and NaN stays."""
    stays = (value <= best) | (best != best)
    return tl.where(stays, best, value), tl.where(stays, position, index)


@triton.jit
def _first_maximum(best, position):
    """Along the second axis the maximum, NaN if there is one, and its lowest position: as torch.max gives them."""
    nan = best != best
    has_nan = tl.max(nan.to(tl.int32), 1) > 0
    top = tl.max(tl.where(nan, float("-inf"), best), 1)
    hit = tl.where(has_nan[:, None], nan, best == top[:, None])
    return tl.where(has_nan, float("nan"), top), tl.min(tl.where(hit, position, 0x7FFFFFFF), 1)


@triton.jit(do_not_specialize=SIZES)
def _pool_kernel(
    x,
    gate,
    mean,
    top,
    position,
    batch,
    kept,
    reduced,
    splits,
    steps,
    REDUCED_LAST: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    GATED: tl.constexpr,
    ACC: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_KEPT: tl.constexpr,
    BLOCK_REDUCED: tl.constexpr,
):
    kept, reduced = _aligned(kept, reduced, not REDUCED_LAST, ALIGNMENT)
    b, block, split = place(tl.cdiv(kept, BLOCK_KEPT), splits)
    k = block * BLOCK_KEPT + tl.arange(0, BLOCK_KEPT)
    lanes = tl.arange(0, BLOCK_REDUCED)
    first = split * steps * BLOCK_REDUCED
    x += b * kept * reduced
    total = tl.zeros([BLOCK_KEPT, BLOCK_REDUCED], ACC)
    best = tl.full([BLOCK_KEPT, BLOCK_REDUCED], float("-inf"), ACC)
    index = tl.zeros([BLOCK_KEPT, BLOCK_REDUCED], tl.int32) + (first + lanes)[None, :]
    for step in range(steps):
        r = first + step * BLOCK_REDUCED + lanes
        inside = (r < reduced)[None, :]
        offset = _offsets(k, r, kept, reduced, not REDUCED_LAST, INDEX)
        value = tl.load(x + offset, (k < kept)[:, None] & inside, 0).to(ACC)
        if GATED:
            value *= tl.load(gate + b * reduced + r, r < reduced, 0)[None, :]
        total += value
        best, index = _take_maximum(tl.where(inside, value, float("-inf")), r[None, :], best, index)
    best, index = _first_maximum(best, index)
    out = (split * batch + b) * kept + k
    tl.store(mean + out, tl.sum(total, 1) / reduced, k < kept)
    tl.store(top + out, best, k < kept)
    tl.store(position + out, index, k < kept)


@triton.jit(do_not_specialize=SIZES)
def _combine_kernel(
    means, tops, positions, mean, top, position, size, splits, BLOCK: tl.constexpr, BLOCK_SPLITS: tl.constexpr
):
    n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    lanes = tl.arange(0, BLOCK_SPLITS)
    total = tl.zeros([BLOCK, BLOCK_SPLITS], mean.dtype.element_ty)
    best = tl.full([BLOCK, BLOCK_SPLITS], float("-inf"), mean.dtype.element_ty)
    inside = (n < size)[:, None] & (lanes < splits)[None, :]
    index = tl.load(positions + lanes[None, :] * size.to(tl.int64) + n[:, None], inside, 0x7FFFFFFF)
    for start in range(0, splits, BLOCK_SPLITS):
        split = start + lanes
        inside = (n < size)[:, None] & (split < splits)[None, :]
        offset = split[None, :] * size.to(tl.int64) + n[:, None]
        total += tl.load(means + offset, inside, 0)
        value = tl.load(tops + offset, inside, float("-inf"))
        best, index = _take_maximum(value, tl.load(positions + offset, inside, 0), best, index)
    best, index = _first_maximum(best, index)
    tl.store(mean + n, tl.sum(total, 1), n < size)
    tl.store(top + n, best, n < size)
    tl.store(position + n, index, n < size)


@triton.jit(do_not_specialize=SIZES)
def _apply_gates_kernel(
    x,
    out,
    gate,
    logits,
    moments,
    norm_weight,
    norm_bias,
    channels,
    pixels,
    NORM: tl.constexpr,
    EPS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    ACC: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
):
    channels, pixels = _aligned(channels, pixels, CHANNELS_LAST, ALIGNMENT)
    b, block_c, block_p = place(tl.cdiv(channels, BLOCK_CHANNELS), tl.cdiv(pixels, BLOCK_PIXELS))
    c = block_c * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    p = block_p * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    sample = b * channels * pixels
    offset = _offsets(c, p, channels, pixels, CHANNELS_LAST, INDEX)
    inside = (c < channels)[:, None] & (p < pixels)[None, :]

    of_channel = tl.load(gate + b * channels + c, c < channels, 0)
    logit = tl.load(logits + b * pixels + p, p < pixels, 0)
    of_pixel = pixel_gate(logit, moments, norm_weight, norm_bias, NORM, EPS)
    value = tl.load(x + sample + offset, inside, 0).to(ACC) * of_channel[:, None] * of_pixel[None, :]
    tl.store(out + sample + offset, value.to(out.dtype.element_ty), inside)


@triton.jit
def _gate_at(
    n, size, IS_PIXEL: tl.constexpr, gate, logits, moments, weight, bias, NORM: tl.constexpr, EPS: tl.constexpr
):
    """The gate of pixels or that of channels."""
    if IS_PIXEL:
        return pixel_gate(tl.load(logits + n, n < size, 0), moments, weight, bias, NORM, EPS)
    else:
        return tl.load(gate + n, n < size, 0)


@triton.jit(do_not_specialize=SIZES)
def _contract_kernel(
    grad,
    x,
    gate,
    logits,
    moments,
    norm_weight,
    norm_bias,
    row_sums,
    column_sums,
    batch,
    channels,
    pixels,
    splits,
    steps,
    NORM: tl.constexpr,
    EPS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    ACC: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    channels, pixels = _aligned(channels, pixels, CHANNELS_LAST, ALIGNMENT)
    rows, columns = channels, pixels
    if CHANNELS_LAST:
        rows, columns = pixels, channels
    b, block, split = place(tl.cdiv(rows, BLOCK_ROWS), splits)
    row = block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    grad += b * channels * pixels
    x += b * channels * pixels
    gate += b * channels
    logits += b * pixels
    of_row = _gate_at(row, rows, CHANNELS_LAST, gate, logits, moments, norm_weight, norm_bias, NORM, EPS)
    along_rows = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], ACC)
    for step in range(steps):
        column = (split * steps + step) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
        of_column = _gate_at(
            column, columns, not CHANNELS_LAST, gate, logits, moments, norm_weight, norm_bias, NORM, EPS
        )
        offset = _offsets(row, column, rows, columns, False, INDEX)
        inside = (row < rows)[:, None] & (column < columns)[None, :]
        product = tl.load(grad + offset, inside, 0).to(ACC) * tl.load(x + offset, inside, 0).to(ACC)
        along_rows += product * of_column[None, :]
        out = (block * batch + b) * columns + column
        tl.store(column_sums + out, tl.sum(product * of_row[:, None], 0), column < columns)
    tl.store(row_sums + (split * batch + b) * rows + row, tl.sum(along_rows, 1), row < rows)


@triton.jit(do_not_specialize=SIZES)
def _contract_maps_kernel(
    x,
    dmaps,
    top_channel,
    channel_sums,
    batch,
    channels,
    pixels,
    splits,
    steps,
    CHANNELS_LAST: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    ACC: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
):
    channels, pixels = _aligned(channels, pixels, CHANNELS_LAST, ALIGNMENT)
    b, block, split = place(tl.cdiv(channels, BLOCK_CHANNELS), splits)
    c = block * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    x += b * channels * pixels
    total = tl.zeros([BLOCK_CHANNELS, BLOCK_PIXELS], ACC)
    for step in range(steps):
        p = (split * steps + step) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
        dmean = tl.load(dmaps + b * pixels + p, p < pixels, 0)
        dtop = tl.load(dmaps + (batch + b) * pixels + p, p < pixels, 0)
        is_top = tl.load(top_channel + b * pixels + p, p < pixels, -1)[None, :] == c[:, None]
        offset = _offsets(c, p, channels, pixels, CHANNELS_LAST, INDEX)
        value = tl.load(x + offset, (c < channels)[:, None] & (p < pixels)[None, :], 0).to(ACC)
        total += value * (dmean[None, :] + tl.where(is_top, dtop[None, :], 0))
    tl.store(channel_sums + (split * batch + b) * channels + c, tl.sum(total, 1), c < channels)


@triton.jit(do_not_specialize=SIZES)
def _input_gradient_kernel(
    grad,
    dx,
    gate,
    logits,
    moments,
    norm_weight,
    norm_bias,
    dmaps,
    top_channel,
    dpooled,
    top_pixel,
    batch,
    channels,
    pixels,
    NORM: tl.constexpr,
    EPS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    ACC: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
):
    channels, pixels = _aligned(channels, pixels, CHANNELS_LAST, ALIGNMENT)
    b, block_c, block_p = place(tl.cdiv(channels, BLOCK_CHANNELS), tl.cdiv(pixels, BLOCK_PIXELS))
    c = block_c * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    p = block_p * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    sample = b * channels * pixels
    offset = _offsets(c, p, channels, pixels, CHANNELS_LAST, INDEX)
    inside = (c < channels)[:, None] & (p < pixels)[None, :]

    of_channel = tl.load(gate + b * channels + c, c < channels, 0)
    daverage = tl.load(dpooled + b * channels + c, c < channels, 0) / pixels
    dtop_pixel = tl.load(dpooled + (batch + b) * channels + c, c < channels, 0)
    is_top_pixel = tl.load(top_pixel + b * channels + c, c < channels, -1)[:, None] == p[None, :]
    logit = tl.load(logits + b * pixels + p, p < pixels, 0)
    of_pixel = pixel_gate(logit, moments, norm_weight, norm_bias, NORM, EPS)
    dmean = tl.load(dmaps + b * pixels + p, p < pixels, 0)
    dtop_channel = tl.load(dmaps + (batch + b) * pixels + p, p < pixels, 0)
    is_top_channel = tl.load(top_channel + b * pixels + p, p < pixels, -1)[None, :] == c[:, None]

    dgated = tl.load(grad + sample + offset, inside, 0).to(ACC) * of_pixel[None, :] + dmean[None, :]
    dgated += tl.where(is_top_channel, dtop_channel[None, :], 0)
    value = dgated * of_channel[:, None] + daverage[:, None]
    value += tl.where(is_top_pixel, dtop_pixel[:, None], 0)
    tl.store(dx + sample + offset, value.to(dx.dtype.element_ty), inside)


def pool_pixels(x: Tensor) -> tuple[Tensor, Tensor]:
    """(2, B, C): mean and maximum of x over the pixels; (B, C) int32: the first pixel that has the maximum."""
    batch, channels, pixels = sizes(x)
    return _pool(x, None, (batch, channels), pixels, not _channels_last(x))


def pool_channels(x: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    """(2, B, P): mean and maximum of x gate (B, C) over the channels; (B, P) int32: the first channel that has it."""
    batch, channels, pixels = sizes(x)
    return _pool(x, gate, (batch, pixels), channels, _channels_last(x))


def _pool(
    x: Tensor, gate: Tensor | None, shape: tuple[int, int], reduced: int, reduced_last: bool
) -> tuple[Tensor, Tensor]:
    batch, kept = shape
    tile = _tile(kept, reduced) if reduced_last else _tile(reduced, kept)[::-1]
    programs, splits, steps = _share(x, kept, reduced, tile)
    pooled = x.new_empty((2, splits, *shape), dtype=accumulation_dtype(x.dtype))
    position = x.new_empty((splits, *shape), dtype=torch.int32)
    _pool_kernel[(programs,)](
        *(x, gate, *pooled, position, batch, kept, reduced, splits, steps),
        **_constants(x),
        REDUCED_LAST=reduced_last,
        GATED=gate is not None,
        BLOCK_KEPT=tile[0],
        BLOCK_REDUCED=tile[1],
        num_warps=WARPS,
    )
    if splits == 1:
        return pooled[:, 0], position[0]
    result, first = pooled.new_empty((2, *shape)), position.new_empty(shape)
    size = first.numel()
    _combine_kernel[(triton.cdiv(size, 32),)](
        *(*pooled, position, *result, first, size, splits), BLOCK=32, BLOCK_SPLITS=32, num_warps=WARPS
    )
    return result, first


def apply_gates(x: Tensor, gate: Tensor, logits: Tensor, norm: Norm) -> Tensor:
    """x times gate (B, C) times the sigmoid of the normalised logits (B, P), like x."""
    _, channels, pixels = sizes(x)
    out = torch.empty_like(x)
    grid, blocks = _cover(x)
    _apply_gates_kernel[grid](
        *(x, out, gate, logits, *norm[:3], channels, pixels), **norm.constants(), **_layout(x), **blocks
    )
    return out


def contract(grad: Tensor, x: Tensor, gate: Tensor, logits: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    """grad x times the spatial gate over the pixels, (S, B, C), and times the channels' over them, (T, B, P).

    Both are partial sums, to be added up along the first axis; in the first one there is room for `contract_maps`'s.
    """
    batch, channels, pixels = sizes(x)
    last = _channels_last(x)
    rows, columns = (pixels, channels) if last else (channels, pixels)
    tile = _tile(rows, columns, along=64)
    programs, splits, steps = _share(x, rows, columns, tile)
    blocks, more = triton.cdiv(rows, tile[0]), _share_of_maps(x)[2]
    dtype = accumulation_dtype(x.dtype)
    channel_sums = x.new_empty((more + (blocks if last else splits), batch, channels), dtype=dtype)
    pixel_sums = x.new_empty((splits if last else blocks, batch, pixels), dtype=dtype)
    sums = (pixel_sums, channel_sums) if last else (channel_sums, pixel_sums)
    _contract_kernel[(programs,)](
        *(grad, x, gate, logits, *norm[:3], *sums, batch, channels, pixels, splits, steps),
        **norm.constants(),
        **_layout(x),
        BLOCK_ROWS=tile[0],
        BLOCK_COLUMNS=tile[1],
        num_warps=WARPS,
    )
    return channel_sums, pixel_sums


def contract_maps(x: Tensor, dmaps: Tensor, top_channel: Tensor, channel_sums: Tensor) -> None:
    """x times the gradients of the maps (2, B, P) over the pixels, into the last rows of `channel_sums`."""
    tile, programs, splits, steps = _share_of_maps(x)
    _contract_maps_kernel[(programs,)](
        *(x, dmaps, top_channel, channel_sums[-splits:], *sizes(x), splits, steps),
        **_layout(x),
        BLOCK_CHANNELS=tile[0],
        BLOCK_PIXELS=tile[1],
        num_warps=WARPS,
    )


def input_gradient(
    grad: Tensor,
    dx: Tensor,
    gate: Tensor,
    logits: Tensor,
    norm: Norm,
    dmaps: Tensor,
    top_channel: Tensor,
    dpooled: Tensor,
    top_pixel: Tensor,
) -> None:
    """dx from grad and the gradients of the maps (2, B, P) and of what was pooled over the pixels (2, B, C)."""
    grid, blocks = _cover(dx)
    _input_gradient_kernel[grid](
        *(grad, dx, gate, logits, *norm[:3], dmaps, top_channel, dpooled, top_pixel, *sizes(dx)),
        **norm.constants(),
        **_layout(dx),
        **blocks,
    )


def sizes(x: Tensor) -> tuple[int, int, int]:
    """Samples, channels, pixels."""
    return x.shape[0], x.shape[1], x.shape[2] * x.shape[3]


def _channels_last(x: Tensor) -> bool:
    return not x.is_contiguous()


def _constants(x: Tensor) -> dict[str, Any]:
    """What the code for tensors like x is compiled for, whichever way it walks."""
    _, channels, pixels = sizes(x)
    return {
        "ALIGNMENT": math.gcd(16 // x.element_size(), channels if _channels_last(x) else pixels),
        "ACC": tl.float64 if x.dtype == torch.float64 else tl.float32,
        "INDEX": tl.int32 if channels * pixels < WIDE else tl.int64,
    }


def _layout(x: Tensor) -> dict[str, Any]:
    return {"CHANNELS_LAST": _channels_last(x), **_constants(x)}


def _tile(rows: int, columns: int, along: int | None = None, elements: int | None = None) -> tuple[int, int]:
    """A tile's rows and columns: TILE elements, `along` in a row, fewer where the input is small.

    A warp along the row keeps sums down a column within a thread: 32 columns, or 64 where threads load vectors.
    """
    width = min(along or (64 if columns % 4 == 0 else 32), triton.next_power_of_2(columns))
    return min((elements or TILE) // width, triton.next_power_of_2(rows)), width


def _cover(x: Tensor) -> tuple[tuple[int], dict[str, int]]:
    """The grid that covers x once, and its tiles."""
    batch, channels, pixels = sizes(x)
    if _channels_last(x):
        tile_pixels, tile_channels = _tile(pixels, channels, along=128, elements=TILE // 2)
    else:
        tile_channels, tile_pixels = _tile(channels, pixels, along=128, elements=TILE // 2)
    programs = batch * triton.cdiv(channels, tile_channels) * triton.cdiv(pixels, tile_pixels)
    return (programs,), {"BLOCK_CHANNELS": tile_channels, "BLOCK_PIXELS": tile_pixels, "num_warps": 1}


def _share(x: Tensor, kept: int, reduced: int, tile: tuple[int, int]) -> tuple[int, int, int]:
    """How programs share the sums: their number, splits of a sum, and tiles that a program walks over.

    A program keeps a block of `kept` and walks along `reduced`, as a whole if that gives work to the entire GPU.
    """
    programs, tiles = x.shape[0] * triton.cdiv(kept, tile[0]), triton.cdiv(reduced, tile[1])
    splits = min(tiles, max(1, round(PROGRAMS_PER_PROCESSOR * _processors(x.device) / programs)))
    steps = triton.cdiv(tiles, splits)
    splits = triton.cdiv(tiles, steps)
    return programs * splits, splits, steps


def _share_of_maps(x: Tensor) -> tuple[tuple[int, int], int, int, int]:
    """The tile of `contract_maps` (channels, pixels), and how programs share its sums."""
    _, channels, pixels = sizes(x)
    tile = _tile(pixels, channels)[::-1] if _channels_last(x) else _tile(channels, pixels)
    return tile, *_share(x, channels, pixels, tile)


@functools.cache
def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return PROCESSORS_IF_UNKNOWN
    return torch.cuda.get_device_properties(device).multi_processor_count
