"""How EMAM's kernels cut their work: threads, rows, columns, planes of a block, and its shared memory.

Each plan is the one of least cost by a count of instructions and of shared memory's wavefronts; what is compared is in
`_cost_of_planes` and `_cost_of_strips`. The layouts of shared memory are those of the *.cu files.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import NamedTuple

REGISTERS = 65536  # of a processor
RESERVED = 1 << 10  # bytes of shared memory that each block needs beside its own
# What plans choose from, where a shape's sizes are compiled in and, False, where few kernels are to serve any size.
COLUMNS = {True: (4, 5, 6, 7, 9, 10, 14), False: (4, 10)}
STRIPS = {True: (4, 5, 6, 8, 10), False: (5, 8)}  # of 7 gates the compiler loads eight, and nothing writes the last
MOST_THREADS = {True: 1024, False: 512}
WARPS_STEP = {True: 1, False: 2}  # of a block of `resident`: a processor has four schedulers and few such blocks
PLANE_THREADS = {True: (96, 128, 160, 192, 224, 256), False: (128,)}
PLANE_TASKS = {True: (160,), False: (160, 96)}  # that parts of the rows are to make
ENOUGH_WARPS = {True: 20, False: 15}  # of a processor, to hide latency; for any size they have more registers


class Planes(NamedTuple):
    """Of pool and moments: so many planes a block; a thread takes some columns in one of `parts` of the rows."""

    columns: int
    by_planes: bool  # neighbouring threads take other planes, not other columns
    planes: int
    parts: int
    threads: int
    shared: int


class Resident(NamedTuple):
    """Of an instance that fits: rows of a strip, shares of the channels, lanes that add up a channel's columns."""

    strip: int
    shares: int
    lanes: int
    threads: int
    shared: int


class Bands(NamedTuple):
    """Of an instance in bands of `own` rows: rows of a strip, strips below each other, own rows of a strip."""

    strip: int
    shares: int
    stack: int
    bands: int
    own: int
    own_strip: int
    threads: int
    shared: int


Cut = Planes | Resident | Bands


class TooLarge(RuntimeError):
    """The kernels of the forward or of the backward do not take maps of this size on this device."""


def too_large(k: int, height: int, width: int, element_bytes: int, limit: int) -> TooLarge:
    """Return the error for groups of k channels whose plans do not fit in `limit` bytes of shared memory."""
    return TooLarge(
        f"backend 'cuda' cannot run: a group of {k} channels with maps of {height} x {width} of {element_bytes} bytes "
        f"an element is too large for the {limit} bytes of shared memory that a block has on this device; use "
        "'triton', 'auto' or more groups"
    )


def _aligned(size: int) -> int:
    return -(-size // 16) * 16


def _by_four(count: int) -> int:
    return -(-count // 4) * 4


@functools.lru_cache(maxsize=256)
def planes(
    count: int, height: int, width: int, size: int, limit: int, moments: bool, baked: bool = True
) -> Planes | None:
    """Return the plan for `count` planes of elements of `size` bytes, None where no plane fits in `limit` bytes."""
    plans = list(_plans_of_planes(min(count, 128), height, width, size, limit, moments, baked))
    return min(plans, key=lambda plan: _cost_of_planes(plan, height, width, size, limit, moments), default=None)


def _plans_of_planes(
    most: int, height: int, width: int, size: int, limit: int, moments: bool, baked: bool
) -> Iterator[Planes]:
    for columns in COLUMNS[baked]:
        if columns > max(min(COLUMNS[baked]), width + 3):
            continue
        across = -(-width // columns)
        for count, tasks in itertools.product((1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128), PLANE_TASKS[baked]):
            parts = max(1, min(height // 8, tasks // (count * across)))
            parts = -(-height // -(-height // parts))
            floats = count * (height + width)
            if moments:
                floats += 2 * count * parts * width
            else:
                floats += across * (count * height | 1) + (count * parts * width if parts > 1 else 0)
            shared = _aligned((count * height * width + 16 // size + columns) * size) + 4 * floats
            if count > most or shared > (limit if count == 1 else min(limit, 44 << 10)):
                continue
            for by_planes in (False, True):
                for threads in PLANE_THREADS[baked]:
                    yield Planes(columns, by_planes, count, parts, threads, shared)


def _cost_of_planes(plan: Planes, height: int, width: int, size: int, limit: int, moments: bool) -> float:
    across, pixels = -(-width // plan.columns), height * width
    tasks = plan.planes * plan.parts * across
    of_map, of_sums = _wavefronts(plan.columns, plan.by_planes, plan.planes, plan.parts, height, width, size)
    rounds, lanes = -(-tasks // plan.threads), -(-tasks // 32) * 32 / tasks
    fill = across * plan.columns / width
    issue = ((5.2 if moments else 4) * fill + 2 / plan.columns) * lanes + plan.threads * 100 / (plan.planes * pixels)
    memory = (of_map * fill + ((0.2 if moments else of_sums) + 1) / plan.columns) * lanes + 0.7
    few = 1 + max(0, 16 - plan.planes) / 200 if pixels < 2000 else 1
    warps = min(64, (limit + RESERVED) // (plan.shared + RESERVED) * plan.threads // 32)
    return (issue / 4 + memory) * (0.7 + 0.3 * rounds * plan.threads / tasks) * few * (1.1 if warps < 20 else 1)


@functools.lru_cache(maxsize=4096)
def _wavefronts(
    columns: int, by_planes: bool, count: int, parts: int, height: int, width: int, size: int
) -> tuple[float, float]:
    """Return how many wavefronts a warp needs for a load of the map and for a store of a row's sum, on average."""
    across, rows, pitch = -(-width // columns), -(-height // parts), count * height | 1
    elements, sums = [], []
    for task in range(min(256, count * parts * across)):
        if by_planes:
            plane, part, j = task % count, task // count // across, task // count % across
        else:
            plane, part, j = task // across // parts, task // across % parts, task % across
        elements.append((plane * height + part * rows) * width + j * columns)
        sums.append(j * pitch + plane * height + part * rows)
    return _conflicts(elements, size), _conflicts(sums, 4)


def _conflicts(elements: list[int], size: int) -> float:
    total = 0
    for first in range(0, len(elements), 32):
        words = {element * size // 4 for element in elements[first : first + 32]}
        banks = [word % 32 for word in words]
        total += max(map(banks.count, set(banks)))
    return total / -(-len(elements) // 32)


@functools.lru_cache(maxsize=256)
def resident(k: int, height: int, width: int, size: int, limit: int, baked: bool = True) -> Resident | None:
    """Return the plan for instances of k channels, None where one does not fit in `limit` bytes."""
    pixels = height * width
    best: tuple[float, Resident | None] = float("inf"), None
    for strip in STRIPS[baked]:
        stack = -(-height // strip)
        strips, room = stack * width, _by_four(strip)
        for threads in range(128, min(800, MOST_THREADS[baked]) + 1, 32 * WARPS_STEP[baked]):
            shares = min(k, threads // strips)
            if not shares or (strip > min(STRIPS[baked]) and strip > height + 3):
                continue
            floats = k * stack * room + 12 * k + _by_four(pixels + pixels // 32 + 1) + _by_four(k * width)
            floats += max(2 * k * width, shares * (strip + 2) * strips)
            shared = _aligned((k * pixels + (stack * strip - height) * width + 16 // size) * size) + 4 * floats
            if shared > limit:
                continue
            lanes = 1 if k >= threads // 2 else 4 if width < 32 else 8
            columns = threads * -(-k * width // threads) * (5.2 * height + 30)
            cost = _cost_of_strips(k, strip, strips, shares, threads, shared, limit, columns, baked)
            best = min(best, (cost, Resident(strip, shares, lanes, threads, shared)), key=lambda pair: pair[0])
    return best[1]


@functools.lru_cache(maxsize=256)
def bands(k: int, height: int, width: int, size: int, limit: int, baked: bool = True) -> Bands | None:
    """Return the plan for instances that do not fit; None where no band of them fits in `limit` bytes."""
    best: tuple[float, Bands | None] = float("inf"), None
    for strip in STRIPS[baked]:
        for stack in range(1, 9):
            room = strip * stack
            strips = stack * width
            least = max(128, -(-strips // 32) * 32)
            if least > MOST_THREADS[baked] or (stack > 1 and room - strip >= height):
                continue
            count = 1 if room >= height else -(-height // (room - 2))
            own = -(-height // count)
            for threads in (least, *(more for more in (256, 384, 512) if more > least)):
                shares = min(k, threads // strips)
                pitch = (room * width + 32 // size - 1) // (16 // size) * (16 // size)
                floats = k * stack * _by_four(strip) + 12 * k + _by_four(k * width) + own * width
                floats += _by_four(shares * (strip + 2) * strips)
                shared = _aligned(k * pitch * size) + 4 * floats
                if shared > limit:
                    continue
                cost = _cost_of_strips(k, strip, strips, shares, threads, shared, limit, 6 * k * own * width, baked)
                cost *= count
                plan = Bands(strip, shares, stack, count, own, -(-own // stack), threads, shared)
                best = min(best, (cost, plan), key=lambda pair: pair[0])
    return best[1]


def _cost_of_strips(
    k: int, strip: int, strips: int, shares: int, threads: int, shared: int, limit: int, others: float, baked: bool
) -> float:
    """Return the instructions of a block's threads, more where a processor holds few warps."""
    of_channel = 12 * strip + (16 + strip / 4 if baked else 30 + 2 * strip)
    each = -(-k // shares) * of_channel + 60 + 9 * (strip + 2)
    sums = 3 * (strip + 2) * strips * (2.5 * shares + 8) if shares > 1 else 0
    registers = 48 + 4 * strip if baked else 13 * strip
    blocks = min((limit + RESERVED) // (shared + RESERVED), max(1, REGISTERS // (threads * registers)))
    return (threads * each + sums + others) * max(1.0, ENOUGH_WARPS[baked] / (blocks * threads / 32))
