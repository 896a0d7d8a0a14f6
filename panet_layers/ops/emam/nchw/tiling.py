"""How the passes find and cut their maps, and what two of them compute alike."""

from __future__ import annotations

from functools import lru_cache
from math import gcd
from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from ...launching import accumulation

LANES = 32  # of a warp: the programs that walk along rows are one warp wide
VECTOR = 4  # pixels that a thread loads at once, at most
PIXELS = 1024  # at most, of a tile of the attention map
WIDE = 2**31 - 4096  # elements that a plane spans from which offsets in it take 64 bits

# Integers get no code of their own for 1 or multiples of 16; but a pixel's stride does where it is 1.
MAPS = ("x", "grad", "out")
INTEGERS = [*"NGCKHW", "blocks", "shares", "strips", "splits", "share", "across", "down"]
INTEGERS += ["own_h", "own_w", "halo_h", "halo_w"]
INTEGERS += [f"{name}_{axis}" for name in MAPS for axis in ("sample", "channel", "row")]
kernel = triton.jit(
    do_not_specialize=INTEGERS,
    do_not_specialize_on_alignment=[f"{name}_column" for name in MAPS],
)


@triton.jit
def instance(n, G, K, sample_step, channel_step):
    """Where instance n begins. Divided in 32 bits, in which it is cheap; multiplied in 64."""
    return (n // G).to(tl.int64) * sample_step + (n % G * K).to(tl.int64) * channel_step


@triton.jit
def offsets(h, w, row_step, column_step, WIDE: tl.constexpr):
    """h row_step + w column_step, in 64 bits where a plane may span more than 2^31 elements."""
    if WIDE:
        return tl.cast(h, tl.int64) * row_step + tl.cast(w, tl.int64) * column_step
    else:  # without it the compiler would type what follows for WIDE too
        return h * row_step + w * column_step


@triton.jit
def places(pixel, W, row_step, column_step, VECTOR: tl.constexpr, WIDE: tl.constexpr):
    """Where pixels lie in their plane; VECTOR as `plane_vector` has it."""
    if VECTOR > 0:
        return pixel
    else:
        return offsets(pixel // W, pixel % W, row_step, column_step, WIDE)


@triton.jit
def multiple(number, VECTOR: tl.constexpr):
    """The same number in a form that shows the compiler its divisor, for wide loads."""
    return number // VECTOR * VECTOR if VECTOR > 1 else number


@triton.jit
def store_windows(x, means, windows, total, H, W, row_step, column_step, ACC: tl.constexpr, WIDE: tl.constexpr):
    """What each tap sees of a plane: total - excluded row - excluded column + their corner."""
    k = tl.arange(0, 16)
    ky, kx = k // 3, k % 3
    h, w = tl.where(ky == 0, H - 1, 0), tl.where(kx == 0, W - 1, 0)
    no_row, no_column = (k < 9) & (ky != 1), (k < 9) & (kx != 1)
    row = tl.load(means + h, mask=no_row, other=0) * W
    column = tl.load(means + H + w, mask=no_column, other=0) * H
    corner = tl.load(x + offsets(h, w, row_step, column_step, WIDE), mask=no_row & no_column, other=0).to(ACC)
    tl.store(windows + k, (total - row - column + corner) / H / W, mask=k < 9)


@triton.jit
def shifted(z, dy: tl.constexpr, dx: tl.constexpr, i, h, w, own, tile_w, H, W, BLOCK_PIXELS: tl.constexpr):
    """z of the pixel dy below and dx to the right, zero outside the map."""
    inside = own & (h + dy >= 0) & (h + dy < H) & (w + dx >= 0) & (w + dx < W)
    return tl.where(inside, tl.gather(z, tl.where(inside, i + dy * tile_w + dx, i), 0), 0.0)


@triton.jit
def constant_term(q, p, beta, b3, K, BLOCK_K: tl.constexpr):
    c = tl.arange(0, BLOCK_K)
    from_q = tl.load(q + c, mask=c < K, other=0) * tl.load(beta + c, mask=c < K, other=0)
    from_p = tl.load(p + c, mask=c < K, other=0) * tl.load(b3 + c, mask=c < K, other=0)
    return tl.sum(from_q + from_p, 0)


def constants(x: Tensor, small: Tensor, *others: Tensor) -> dict[str, object]:
    """What every kernel is compiled for: the accumulation's dtype and whether a plane needs 64-bit offsets."""
    height, width = x.shape[2:]
    spans = ((height - 1) * t.stride(2) + (width - 1) * t.stride(3) for t in (x, *others))
    return {"ACC": accumulation(small), "WIDE": max(height * width, *spans) >= WIDE}


def row_vector(x: Tensor) -> int:
    """Pixels of a row that a thread can load at once: every row starts at a multiple of so many."""
    return gcd(VECTOR, x.shape[3], *x.stride()[:3]) if x.stride(3) == 1 else 1


def plane_vector(*maps: Tensor) -> int:
    """Pixels of a plane that a thread can load at once; 0 where not all lie side by side, row after row."""
    height, width = maps[0].shape[2:]
    if any(t.stride(3) != 1 or t.stride(2) != width for t in maps):
        return 0
    return gcd(VECTOR, height * width, *(stride for t in maps for stride in t.stride()[:2]))


def plane_block(height: int, width: int) -> dict[str, int]:
    """Rows and columns that a one-warp program takes at a time: the best of 16, 8 and 4 rows."""
    candidates = [min(size, triton.next_power_of_2(height)) for size in (16, 8, 4)]
    # A step costs about as much as five rows, beside its rows.
    rows = min(candidates, key=lambda size: -(-height // size) * (size + 5))
    return {"BLOCK_ROWS": rows, "BLOCK_COLUMNS": min(LANES, triton.next_power_of_2(width))}


class Tiling(NamedTuple):
    """How an attention map is cut: into `down` times `across` tiles, with a halo where a tile has neighbours."""

    pixels: int  # of the padded tile, a power of two
    across: int
    down: int
    own_h: int
    own_w: int
    halo_h: int
    halo_w: int


@lru_cache(maxsize=256)
def tiling(height: int, width: int) -> Tiling:
    """The cut into the fewest tiles of at most PIXELS, halo included."""
    if height * width <= PIXELS:
        return Tiling(max(LANES, triton.next_power_of_2(height * width)), 1, 1, height, width, 0, 0)
    cuts = []
    for across in range(1, 1 + -(-width // 16)):
        own_w, halo_w = -(-width // across), int(across > 1)
        rows = PIXELS // (own_w + 2 * halo_w)
        halo_h = int(rows < height)
        if rows > 2 * halo_h:
            down = -(-height // (rows - 2 * halo_h))
            cuts.append(Tiling(PIXELS, across, down, -(-height // down), own_w, halo_h, halo_w))
    return min(cuts, key=lambda cut: (cut.across * cut.down, cut.across))
