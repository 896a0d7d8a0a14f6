"""How long an H200 would need for counted launches: each kernel as long as its slowest resource, nothing else.

Optimistic: no latency, no launches, no imbalance, every resource at its full rate. Kernels that share a bound can be
compared by it; it does not replace a measurement.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from tests.emulator.emulation import Execution
from tests.emulator.sass import executed, sass

PROCESSORS, CLOCK = 132, 1.75e9
SCHEDULERS = 4  # of a processor; each issues one warp's instruction a cycle
L2_BYTES, MEMORY_BYTES = 5.5e12, 4.0e12  # a second
# Multiply-adds of 16-bit numbers a cycle and a processor, by mma.sync: the rate of an A100's datasheet. Hopper's is
# twice that with wgmma; mma.sync's share of it is assumed to be half.
MATRIX_RATE = 1024
SECTOR, SECTORS_OF_A_LINE = 32, 4
REGISTERS, SHARED_BYTES, RESERVED_SHARED = 65536, 227 << 10, 1024
MOST_BLOCKS, MOST_WARPS = 32, 64  # of a processor

CLASSES = ["global", "shared", "shuffle", "matrix", "float", "int", "predicate", "move", "branch", "barrier"]


class Cost(NamedTuple):
    """Of one launch, all blocks. Instructions are a warp's; times are microseconds."""

    ptx: float
    machine: float
    by_loops: bool  # whether `machine` follows the loops, see sass.executed
    by_class: dict[str, float]
    sectors_of_load: float
    sectors_of_store: float
    bytes_asked: float
    bytes_of_blocks: float  # each sector once for a block
    wavefronts: float
    ideal_wavefronts: float
    resident_warps: int  # of a processor
    waves: float
    issue: float
    l1: float
    l2: float
    memory: float
    matrix: float

    @property
    def longest(self) -> float:
        """The slowest resource's time; that of memory is l2's or less."""
        return max(self.issue, self.l1, self.l2, self.matrix)


def cost(execution: Execution) -> Cost:
    """Return what a launch costs."""
    counts, names = execution.counts, execution.program.names
    code = sass(execution.cubin)
    machine, by_loops = executed(code, execution.program, counts)
    loads, stores = _named(names, "ld.global", "cp.async.c"), _named(names, "st.global")
    shared = _named(names, "ld.shared", "st.shared", "ldmatrix", "stmatrix")
    total = lambda array, wanted: float(array[wanted].sum())  # noqa: E731
    requests = lambda wanted: max(1.0, total(counts.executions, wanted & (counts.lanes > 0)))  # noqa: E731
    by_class = dict.fromkeys(CLASSES, 0.0)
    for name, executions in zip(names, counts.executions):
        by_class[class_of(name)] += float(executions)
    sectors, wavefronts = total(counts.transactions, loads | stores), total(counts.transactions, shared)
    asked, distinct = total(counts.ideal, loads | stores), float(counts.distinct.sum()) * SECTOR
    warps = execution.threads // 32
    resident = resident_warps(code.registers, warps, execution.shared)
    microseconds = lambda cycles: cycles / (PROCESSORS * CLOCK) * 1e6  # noqa: E731
    return Cost(
        ptx=float(counts.executions.sum()),
        machine=machine,
        by_loops=by_loops,
        by_class=by_class,
        sectors_of_load=total(counts.transactions, loads) / requests(loads),
        sectors_of_store=total(counts.transactions, stores) / requests(stores),
        bytes_asked=asked,
        bytes_of_blocks=distinct,
        wavefronts=wavefronts,
        ideal_wavefronts=total(counts.ideal, shared),
        resident_warps=resident,
        waves=execution.blocks / (PROCESSORS * resident / warps),
        issue=microseconds(machine / SCHEDULERS),
        l1=microseconds(sectors / SECTORS_OF_A_LINE + wavefronts),
        l2=distinct / L2_BYTES * 1e6,
        memory=min(distinct, asked) / MEMORY_BYTES * 1e6,
        matrix=microseconds(_multiply_adds(execution) / MATRIX_RATE),
    )


def _named(names: list[str], *starts: str) -> np.ndarray:
    return np.array([name.startswith(starts) for name in names])


def _multiply_adds(execution: Execution) -> float:
    """Of all mma: 16 x 8 x 8 or 16 x 8 x 16 in each."""
    total = 0.0
    for name, executions in zip(execution.program.names, execution.counts.executions):
        if found := re.search(r"\.m(\d+)n(\d+)k(\d+)\.", name if name.startswith("mma.") else ""):
            total += float(executions) * int(found[1]) * int(found[2]) * int(found[3])
    return total


def resident_warps(registers: int, warps: int, shared: int) -> int:
    """Return how many warps a processor holds of blocks of so many warps, registers a thread and shared bytes."""
    of_warp = -(-registers * 32 // 256) * 256
    by_registers, by_shared = REGISTERS // (of_warp * warps), SHARED_BYTES // (shared + RESERVED_SHARED)
    return min(MOST_BLOCKS, MOST_WARPS // warps, by_registers, by_shared) * warps


def class_of(name: str) -> str:
    """Return what kind of work a PTX instruction is."""
    for start, kind in {
        ("ld.global", "st.global", "cp.async"): "global",
        ("ld.shared", "st.shared", "ldmatrix", "stmatrix"): "shared",
        ("shfl", "redux"): "shuffle",
        ("mma",): "matrix",
        ("bar",): "barrier",
        ("bra", "ret"): "branch",
    }.items():
        if name.startswith(start):
            return kind
    if "setp" in name or name.endswith(".pred"):
        return "predicate"
    if re.search(r"\.(f32|bf16|f16|bf16x2|f16x2)", name) or name.startswith(("ex2", "sqrt", "div.full")):
        return "float"
    return "move" if name.startswith(("mov", "ld.param", "selp")) else "int"
