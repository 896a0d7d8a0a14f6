"""`emulated(sm)`: a block in which CPU tensors go through the kernels that Triton compiles for a GPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from panet_layers.ops import availability
from tests.emulator.findings import FAULTS
from tests.emulator.program import Program, programs
from tests.emulator.running import DEFAULT, Argument, Counts, Options, run
from tests.kernels.pretended_gpu import Launch, pretended_gpu


class Execution(NamedTuple):
    """One launch that was counted."""

    name: str
    program: Program
    cubin: bytes
    blocks: int
    blocks_run: int
    threads: int
    shared: int
    counts: Counts


@dataclass
class Record:
    """What the launches of a block showed."""

    launches: int = 0
    kernels: dict[str, Program] = field(default_factory=dict)  # by hash
    findings: Counter[tuple[str, str]] = field(default_factory=Counter)  # (kernel, kind)
    messages: dict[tuple[str, str], str] = field(default_factory=dict)  # where the first ones were
    executions: list[Execution] = field(default_factory=list)  # with Options.count


@contextmanager
def emulated(sm: int, options: Options = DEFAULT, forbidden: Collection[str] = tuple(FAULTS)) -> Iterator[Record]:
    """Run the Triton kernels as compiled for compute capability sm (80, 90); yield what is recorded.

    A finding of a forbidden kind raises RuntimeError where the kernel was launched.
    """
    record = Record()

    def execute(launch: Launch) -> None:
        _execute(launch, options, forbidden, record)

    before, availability.INTERPRETING = availability.INTERPRETING, True  # kernels may take CPU tensors
    try:
        with pretended_gpu(sm, execute):
            yield record
    finally:
        availability.INTERPRETING = before


def _execute(launch: Launch, options: Options, forbidden: Collection[str], record: Record) -> None:
    name, kernel = launch.function.__name__, launch.compiled()
    (program,) = programs(kernel.asm["ptx"]).values()
    arguments, grid = _bound(launch, kernel)
    threads, shared = kernel.metadata.num_warps * 32, kernel.metadata.shared
    result = run(program, arguments, grid, threads, shared, options)
    record.launches += 1
    record.kernels[kernel.hash] = program
    for kind, number in result.findings.items():
        record.findings[name, kind] += number
        record.messages.setdefault((name, kind), result.where(kind))
    if options.count:
        blocks = int(torch.tensor(grid).prod())
        record.executions.append(
            Execution(name, program, kernel.asm["cubin"], blocks, result.blocks_run, threads, shared, result.counts)
        )
    if wrong := set(forbidden) & result.findings.keys():
        shapes = [tuple(argument.shape) for argument in arguments if isinstance(argument, Tensor)]
        raise RuntimeError("\n".join([f"{name} on {shapes}:", *map(result.where, sorted(wrong))]))


def _bound(launch: Launch, kernel: Any) -> tuple[list[Argument], list[int]]:
    """The arguments of the compiled code, in its order, and the grid."""
    bound = launch.bound
    grid = launch.grid(bound) if callable(launch.grid) else launch.grid
    # Triton adds parameters for scratch memory, which none of our kernels asks for.
    scratch = (getattr(kernel.metadata, f"{kind}_scratch_size", 0) for kind in ("global", "profile"))
    if any(scratch):
        raise NotImplementedError(f"{launch.function.__name__} needs scratch memory")
    wanted = (name for name, kind in kernel.src.signature.items() if kind != "constexpr")
    return [bound[name] for name in wanted], [int(size) for size in grid]
