"""How the backward's kernels divide a shape: blocks, shared memory, what a thread takes. Chosen by rough counts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from .planning import TooLarge, too_large

VECTOR_BYTES = 16
WARP = 32
PROCESSOR_THREADS, PROCESSOR_REGISTERS, PROCESSOR_SHARED = 2048, 65536, 227 << 10
ENOUGH_WARPS = 16  # of a processor, to hide latencies
MOST_WIDTH = 512  # a row of `input_gradient` is a row of threads
SUMS = 10  # a thread of `contract` ends with: E and T
# What plans choose from, where a shape's sizes are compiled in and, False, where few kernels are to serve any size.
COLUMNS = {True: tuple(range(1, 11)), False: (5, 8)}  # of a thread of `contract`
ROWS = {True: tuple(range(1, 11)), False: (2, 5)}  # of a thread of `input_gradient`


class DeltaPlan(NamedTuple):
    """`delta`: a thread takes `span` pixels through its share of the channels."""

    span: int  # elements of a load
    classes: int  # of planes: those whose loads meet the same pixels
    slots: int  # spans of a block
    groups: int  # shares of the channels
    threads: int
    blocks: int  # of an instance
    shared: int


class ContractPlan(NamedTuple):
    """`contract`: a thread takes `rows` rows of `columns` columns of a channel."""

    columns: int
    parts: int  # of a band
    rows: int  # of a part
    planes: int  # channels of a block
    threads: int
    bands: int
    stride: int  # elements in shared memory from a channel to the next
    x_bytes: int
    shared: int


class GradientPlan(NamedTuple):
    """`input_gradient`: a thread takes `rows` rows of a column through its share of a block's channels."""

    rows: int
    stack: int  # threads of a column
    groups: int  # shares of the channels
    chunk: int  # channels of a block
    threads: int
    bands: int
    sure: int  # rows that are inside the map in every thread
    shared: int


def blocks_of(size: int, block: int) -> int:
    """Return how many blocks cover a size."""
    return -(-size // block)


def rounded(size: int, multiple: int) -> int:
    """Return the next multiple."""
    return blocks_of(size, multiple) * multiple


def check_taken(
    n: int, k: int, height: int, width: int, element_bytes: int, shared_bytes: int, baked: bool = True
) -> None:
    """Raise TooLarge where the kernels do not take the backward of n instances of K x H x W."""
    if width > MOST_WIDTH:
        raise TooLarge(
            f"backend 'cuda' cannot run: it takes maps of width {MOST_WIDTH} at most, got {height} x {width}; "
            "use 'triton' or 'auto'"
        )
    contract = contract_plan(k, height, width, element_bytes, shared_bytes, baked)
    if contract is None or gradient_plan(k, height, width, shared_bytes, baked) is None:
        raise too_large(k, height, width, element_bytes, shared_bytes)
    if max(n * height * k, k * height * width, n * (height + width)) >= 2**31:
        raise TooLarge(
            f"backend 'cuda' cannot run: it counts pixels of a group, and rows of all, in 32 bits; {n} groups of "
            f"{k} channels with maps of {height} x {width} have more; use 'triton' or 'auto'"
        )


def divisions(size: int) -> Iterator[tuple[int, int]]:
    """Yield (parts, size of a part) wherever no part is empty, from one part on."""
    part = size
    while part:
        parts = blocks_of(size, part)
        part = blocks_of(size, parts)
        yield parts, part
        part -= 1


def _up_to(choices: tuple[int, ...], most: int, least: int = 0) -> list[int]:
    """Return the choices from `least` to `most`, or the smallest one."""
    return [choice for choice in choices if least <= choice <= most] or [min(choices)]


@lru_cache(maxsize=256)
def delta_plan(k: int, height: int, width: int, element_bytes: int, alike: int) -> DeltaPlan:
    """Return the plan of `delta`. alike: both maps start at the same element of so many, which bounds the loads."""
    pixels = height * width
    spans = [s for s in (8, 4, 2, 1) if s * element_bytes <= VECTOR_BYTES and alike % s == 0]
    classes_of = {span: span // math.gcd(span, pixels) for span in spans}
    # Several classes pay where each has channels enough.
    span = next(s for s in spans if classes_of[s] == 1 or (s * classes_of[s] <= 16 and k >= 8 * classes_of[s]))
    classes = classes_of[span]
    plans = (_delta_divided(pixels, k, span, classes, blocks) for blocks in range(1, blocks_of(pixels, 64 * span) + 1))
    return min((p for p in plans if p.threads <= 512), key=lambda p: _delta_cost(p, k))


def _delta_divided(pixels: int, k: int, span: int, classes: int, blocks: int) -> DeltaPlan:
    slots = blocks_of(blocks_of(pixels, blocks), span) + (span > 1)
    groups = max(1, min(k // (8 * classes), 384 // slots))
    if groups * classes == 1:
        steps = blocks_of(slots, 512) if slots < 512 else 4
        threads = rounded(blocks_of(slots, steps), WARP)
        return DeltaPlan(span, 1, slots, 1, threads, blocks, 4 * WARP)
    threads = rounded(slots * groups, WARP)
    return DeltaPlan(span, classes, slots, groups, threads, blocks, 4 * (groups * classes * slots * span + WARP))


def _delta_cost(plan: DeltaPlan, k: int) -> float:
    """Return about how many instructions an instance costs."""
    if plan.groups * plan.classes == 1:
        walk = blocks_of(plan.slots, plan.threads) * (plan.span * (3.5 * k + 12) + 25)
    else:
        walk = plan.classes * (blocks_of(k, plan.groups * plan.classes) * (3.5 * plan.span + 2) + 40)
        walk += blocks_of(plan.slots * plan.span, plan.threads) * (25 + 2 * plan.groups * plan.classes)
    return plan.blocks * plan.threads * (walk + 60)


@lru_cache(maxsize=256)
def contract_plan(
    k: int, height: int, width: int, element_bytes: int, shared_bytes: int, baked: bool = True
) -> ContractPlan | None:
    """Return the plan of `contract`; None where not even a row of each of a few channels fits in shared memory."""
    best, least = None, math.inf
    for plan in _contract_plans(k, height, width, element_bytes, shared_bytes, baked):
        if _contract_cost(plan, k, height, width) >= least:
            continue  # more shared memory, for a better stride, does not make it cheaper
        plan = _laid_out(plan, height, width, element_bytes)
        cost = _contract_cost(plan, k, height, width)
        if plan.shared <= shared_bytes and cost < least:
            best, least = plan, cost
    return best


def _contract_plans(
    k: int, height: int, width: int, element_bytes: int, shared_bytes: int, baked: bool = True
) -> Iterator[ContractPlan]:
    """Yield plans with the least stride, which fit in shared memory."""
    most = min(k, 128)
    shares = [planes for _, planes in reversed(list(divisions(k))) if planes <= most]
    for columns in _up_to(COLUMNS[baked], width, min(4, width)):
        strips = blocks_of(width, columns)
        for bands, band in divisions(height):
            if bands > 1 and (strips > 512 or (band < 4 and height >= 4)):
                break
            if band * width * element_bytes > shared_bytes:
                continue
            for parts, rows in divisions(band):
                if parts > 8:
                    break
                for planes in shares:
                    threads = rounded(planes * strips * parts, WARP)
                    of_maps = planes * band * width * element_bytes
                    if threads > (512 if columns < 7 else 480) or of_maps > shared_bytes:
                        break
                    plan = ContractPlan(columns, parts, rows, planes, threads, bands, 0, 0, 0)
                    plan = _with_stride(plan, _least_stride(plan, height, width, element_bytes), width, element_bytes)
                    if plan.shared <= shared_bytes:
                        yield plan


def _laid_out(plan: ContractPlan, height: int, width: int, element_bytes: int) -> ContractPlan:
    """Return the plan with the stride of the fewest conflicts."""
    least, vector = _least_stride(plan, height, width, element_bytes), VECTOR_BYTES // element_bytes
    strides = range(least, least + 8 * vector, vector)
    stride = min(strides, key=lambda s: _conflicts(s, plan.columns, plan.planes, element_bytes))
    return _with_stride(plan, stride, width, element_bytes)


def _least_stride(plan: ContractPlan, height: int, width: int, element_bytes: int) -> int:
    pixels, band, vector = height * width, plan.parts * plan.rows, VECTOR_BYTES // element_bytes
    return pixels if plan.bands == 1 else rounded(band * width - pixels % vector, vector) + pixels % vector


def _with_stride(plan: ContractPlan, stride: int, width: int, element_bytes: int) -> ContractPlan:
    columns, parts, rows, planes, threads, bands, *_ = plan
    strips, band, vector = blocks_of(width, columns), parts * rows, VECTOR_BYTES // element_bytes
    sums = 4 * planes * (SUMS * strips * parts + 2 * parts * width)
    x_bytes = rounded(max((planes * stride + vector + columns) * element_bytes, sums), VECTOR_BYTES)
    step = (columns + 5) // 4 * 4
    floats = (band + 2) * strips * step + strips * 2 * band * planes + SUMS * planes
    floats += rounded((band + width) * (planes | 1), 2) + 2 * (threads // planes) * planes
    return ContractPlan(columns, parts, rows, planes, threads, bands, stride, x_bytes, x_bytes + 4 * floats)


@lru_cache(maxsize=4096)
def _conflicts(stride: int, columns: int, planes: int, element_bytes: int) -> int:
    """Return how many words of one bank a warp reads together, at worst over the banks."""
    places = ((lane % planes) * stride + lane // planes * columns for lane in range(WARP))
    words = {place * element_bytes // 4 for place in places}
    banks = [word % 32 for word in words]
    return max(banks.count(bank) for bank in set(banks))


def _contract_cost(plan: ContractPlan, k: int, height: int, width: int) -> float:
    """Return about how many instructions an element of the map costs, more where few warps fit on a processor."""
    strips, band = blocks_of(width, plan.columns), plan.parts * plan.rows
    step = (plan.columns + 5) // 4 * 4
    walk = plan.rows * (18 * plan.columns + step / 4 + 8) + 130 + 6 * plan.columns
    staging = (band + 2) * strips * step * 8 + plan.planes * (
        8 * (rounded(band, WARP) + rounded(width, WARP)) + 1.5 * band * width / 8
    )
    ending = plan.planes * (SUMS * strips * plan.parts * 2 + band * 2 * strips * 2 + width * plan.parts * 4 + 150)
    ending += plan.planes * 8 * (rounded(band, WARP) + rounded(width, WARP))
    blocks = plan.bands * blocks_of(k, plan.planes)
    instructions = blocks * (plan.threads * walk + staging + ending)
    if plan.bands > 1:
        instructions += 80 * (height + width) * rounded(k, WARP)
    instructions /= k * height * width
    registers = 3 * step + 3 * plan.columns + 40
    held = min(PROCESSOR_REGISTERS // (registers * plan.threads), PROCESSOR_SHARED // (plan.shared + 1024))
    warps = held * plan.threads // WARP
    return instructions * max(1.0, ENOUGH_WARPS / max(warps, 1)) ** 0.5


@lru_cache(maxsize=256)
def gradient_plan(k: int, height: int, width: int, shared_bytes: int, baked: bool = True) -> GradientPlan | None:
    """Return the plan of `input_gradient`; None where a row is wider than a block."""
    plans = [p for p in _gradient_plans(k, height, width, baked) if p.shared <= shared_bytes]
    return min(plans, key=lambda p: _gradient_cost(p, k, height, width)) if plans else None


def _gradient_plans(k: int, height: int, width: int, baked: bool) -> Iterator[GradientPlan]:
    for rows in _up_to(ROWS[baked], height):
        column = blocks_of(height, rows)
        for bands in range(1, column + 1):
            stack = blocks_of(column, bands)
            if stack * width > MOST_WIDTH or (bands - 1) * stack >= column:
                continue
            for groups in sorted({max(1, min(k, size // (stack * width))) for size in (128, 192, 256, 320, 384)}):
                for share in (1, 2, 4, 6, 8, 12, 16, 24):
                    chunk = min(k, groups * share)
                    chunk = blocks_of(k, blocks_of(k, chunk))
                    threads = rounded(groups * stack * width, WARP)
                    side = stack * rounded(rows, 2)
                    shared = chunk * (96 + 8 * side + 8 * width)
                    sure = height - (column - 1) * rows
                    yield GradientPlan(rows, stack, groups, chunk, threads, bands, sure, shared)


def _gradient_cost(plan: GradientPlan, k: int, height: int, width: int) -> float:
    """Return about how many instructions an element of the map costs."""
    share = blocks_of(plan.chunk, plan.groups)
    walk = share * (23.5 * plan.rows + 20 + (plan.rows > plan.sure) * 2) + 4 * (3 * plan.rows + 6) + 60
    staging = plan.chunk * (13 * (rounded(plan.stack * plan.rows, WARP) + rounded(width, WARP)) + 100)
    blocks = plan.bands * blocks_of(k, plan.chunk)
    instructions = blocks * (plan.threads * walk + staging) / (k * height * width)
    registers = 3 * (plan.rows + 2) + 4 * plan.rows + 36
    held = min(PROCESSOR_REGISTERS // (registers * plan.threads), PROCESSOR_SHARED // (plan.shared + 1024))
    warps = held * plan.threads // WARP
    return instructions * max(1.0, ENOUGH_WARPS / max(warps, 1)) ** 0.5
