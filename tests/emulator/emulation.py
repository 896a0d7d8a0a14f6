"""`emulated(sm)`: a block in which CPU tensors go through the kernels that Triton and NVRTC compile for a GPU."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from panet_layers.ops import availability
from panet_layers.ops.cuda import launching
from panet_layers.ops.cuda.code_cache import ENVIRONMENT_VARIABLE
from panet_layers.ops.cuda.compiling import compiled
from tests.emulator.findings import FAULTS
from tests.emulator.program import Program, programs
from tests.emulator.running import DEFAULT, Argument, Counts, Options, run
from tests.kernels.pretended_gpu import Launch, pretended_gpu

COMPILED = Path(__file__).parents[2] / "build" / "emulated_kernels"
SHARED_BYTES = {
    80: 163 << 10,
    86: 99 << 10,
    89: 99 << 10,
    90: 227 << 10,
    100: 227 << 10,
    120: 99 << 10,
}  # that a block may have


class Execution(NamedTuple):
    """One launch that was counted."""

    name: str
    program: Program
    cubin: bytes
    blocks: int
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
    """Run the kernels of Triton and of CUDA C as compiled for compute capability sm (80, 90); yield what is recorded.

    A finding of a forbidden kind raises RuntimeError where the kernel was launched.
    """
    record = Record()
    runner = _Runner(options, forbidden, record)
    before, availability.INTERPRETING = availability.INTERPRETING, True  # kernels may take CPU tensors
    machine, launching.machine = launching.machine, EmulatedGpu(sm, runner)
    os.environ.setdefault(ENVIRONMENT_VARIABLE, str(COMPILED))
    try:
        with pretended_gpu(sm, runner.launched_by_triton):
            yield record
    finally:
        availability.INTERPRETING, launching.machine = before, machine


@dataclass
class _Runner:
    """Runs compiled code as the block's options want, and records it."""

    options: Options
    forbidden: Collection[str]
    record: Record

    def launched_by_triton(self, launch: Launch) -> None:
        """Compile and run what Triton would launch."""
        kernel = launch.compiled()
        (program,) = programs(kernel.asm["ptx"]).values()
        arguments, grid = _bound(launch, kernel)
        threads, shared = kernel.metadata.num_warps * 32, kernel.metadata.shared
        self.run(program, arguments, grid, threads, shared, kernel.hash, lambda: kernel.asm["cubin"])

    def run(
        self, program: Program, arguments: list[Argument], grid: list[int], threads: int, shared: int,
        key: str, cubin: Callable[[], bytes],
    ) -> None:  # fmt: skip
        """Run one launch; raise RuntimeError for what it must not do."""
        record, name = self.record, program.name
        result = run(program, arguments, grid, threads, shared, self.options)
        record.launches += 1
        record.kernels[key] = program
        for kind, number in result.findings.items():
            record.findings[name, kind] += number
            record.messages.setdefault((name, kind), result.where(kind))
        if self.options.count:
            blocks = int(torch.tensor(grid).prod())
            record.executions.append(Execution(name, program, cubin(), blocks, threads, shared, result.counts))
        if wrong := set(self.forbidden) & result.findings.keys():
            shapes = [tuple(argument.shape) for argument in arguments if isinstance(argument, Tensor)]
            raise RuntimeError("\n".join([f"{name} on {shapes}:", *map(result.where, sorted(wrong))]))


class EmulatedGpu(launching.Gpu):
    """In the place of the GPUs of `launching.machine`: it takes CPU tensors."""

    def __init__(self, sm: int, runner: _Runner) -> None:
        self.sm, self.runner = sm, runner

    def runs_on(self, device: torch.device) -> bool:
        return device.type == "cpu"

    def limits(self) -> launching.Limits:
        return launching.Limits(divmod(self.sm, 10), SHARED_BYTES[self.sm])

    def launch(self, kernel: launching.Kernel, blocks: int, threads: int, shared: int, arguments: tuple) -> None:
        text = compiled(kernel.source, kernel.defines, f"compute_{self.sm}").rstrip(b"\0").decode()
        program = programs(text)[kernel.name]
        if shared > SHARED_BYTES[self.sm] or threads % 32 or threads > 1024:
            raise RuntimeError(f"{kernel.name} asks for {shared} bytes of shared memory and {threads} threads")
        sizes = [8 if isinstance(argument, Tensor) else 4 for argument in arguments]
        if sizes != [parameter.bytes for parameter in program.parameters]:
            raise RuntimeError(f"{kernel.name} has parameters {program.parameters} and gets {sizes} bytes")
        code = lambda: self.machine_code(kernel)  # noqa: E731
        self.runner.run(program, list(arguments), [blocks], threads, shared, f"{kernel}", code)

    def machine_code(self, kernel: launching.Kernel) -> bytes:
        """Return what would be loaded on a GPU."""
        return compiled(kernel.source, kernel.defines, f"sm_{self.sm}")


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
