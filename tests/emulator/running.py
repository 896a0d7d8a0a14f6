"""Runs one launch of a program on CPU tensors, and returns what was found and counted."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from tests.emulator import library
from tests.emulator.findings import KINDS, TEXTS
from tests.emulator.program import Parameter, Program

MOST_MESSAGE_BYTES = 1 << 14
Argument = Tensor | int | float


class Options(NamedTuple):
    """How to run: what to look for, what to count, in which order."""

    check: bool = True  # races, and shared memory that nothing wrote; bounds and alignment are always checked
    count: int = 0  # 1: executions, lanes, memory transactions; 2: distinct sectors too
    noisy: bool = False  # approximate instructions are off by up to their documented error
    reverse: bool = False  # the last warp first
    sample: int = 0  # run at most so many blocks, evenly chosen; the outputs are not complete, the counts are estimates


DEFAULT = Options()


class Counts(NamedTuple):
    """Of each instruction, by all warps of the grid.

    Where only some blocks run, each counts for those up to the next: the last one, which may be smaller, for itself.
    """

    executions: np.ndarray
    lanes: np.ndarray  # executions by active lanes
    transactions: np.ndarray  # sectors of 32 bytes, or wavefronts of shared memory
    ideal: np.ndarray  # bytes asked for, or wavefronts without bank conflicts
    distinct: np.ndarray  # sectors that a block had not asked for before


class Result(NamedTuple):
    """What a launch showed: findings by kind, and a line for each of the first ones."""

    findings: dict[str, int]
    message: str
    counts: Counts
    blocks_run: int

    def where(self, kind: str) -> str:
        """Return the lines about one kind of finding."""
        return "\n".join(line for line in self.message.splitlines() if line.startswith(TEXTS[kind]))


class _Options(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int32) for name in ("check", "count", "noisy", "reverse")]


class _Request(ctypes.Structure):
    """struct Request of machine/machine.cpp."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("program", "first_registers", "first_predicates", "parameters")),
        *((name, ctypes.c_void_p) for name in ("regions", "chosen", "alike", "findings", "message", *Counts._fields)),
        ("grid", ctypes.c_uint32 * 3),
        *((name, ctypes.c_int32) for name in ("length", "register_bytes", "predicates", "threads", "shared_bytes")),
        *((name, ctypes.c_int32) for name in ("region_count", "chosen_count", "message_bytes")),
        ("options", _Options),
    ]


def run(
    program: Program,
    arguments: Sequence[Argument],
    grid: Sequence[int],
    threads: int,
    shared: int = 0,
    options: Options = DEFAULT,
) -> Result:
    """Launch `grid` blocks of `threads`, with `shared` bytes beside what the program declares."""
    if program.threads not in (None, threads):
        raise ValueError(f"{program.name} is for blocks of {program.threads} threads, not {threads}")
    grid = [*grid, 1, 1][:3]
    blocks = int(np.prod(np.array(grid, np.int64)))
    chosen = _sample(blocks, options.sample)
    alike = None if chosen is None else np.diff(chosen, append=blocks).astype(np.int64)
    counts = Counts(*(np.zeros(len(program.names), np.uint64) for _ in Counts._fields))
    findings, message = np.zeros(len(KINDS), np.int64), ctypes.create_string_buffer(MOST_MESSAGE_BYTES)
    regions = np.array([_extent(a) for a in arguments if isinstance(a, Tensor)], np.uint64).reshape(-1, 2)
    arrays = {
        "program": program.instructions,
        "first_registers": program.registers.image(),
        "first_predicates": program.registers.predicates(),
        "parameters": _stored(program, arguments),
        "regions": regions,
        "findings": findings,
        **counts._asdict(),
    }
    request = _Request(
        **{name: array.ctypes.data for name, array in arrays.items()},
        chosen=None if chosen is None else chosen.ctypes.data,
        alike=None if alike is None else alike.ctypes.data,
        message=ctypes.addressof(message),
        grid=(ctypes.c_uint32 * 3)(*grid),
        length=len(program.names),
        register_bytes=arrays["first_registers"].nbytes,
        predicates=len(arrays["first_predicates"]),
        threads=threads,
        shared_bytes=-(-program.static_shared // 16) * 16 + shared,
        region_count=len(regions),
        chosen_count=0 if chosen is None else len(chosen),
        message_bytes=MOST_MESSAGE_BYTES,
        options=_Options(options.check, options.count, options.noisy, options.reverse),
    )
    gave_up = library.loaded().run_launch(ctypes.byref(request))
    text = message.value.decode()
    if gave_up:
        raise RuntimeError(f"{program.name}: {text}")
    found = {kind: int(number) for kind, number in zip(KINDS, findings) if number}
    return Result(found, text, counts, blocks if chosen is None else len(chosen))


def _sample(blocks: int, most: int) -> np.ndarray | None:
    if not most or blocks <= most:
        return None
    return np.unique(np.linspace(0, blocks - 1, most).astype(np.int32))


def _stored(program: Program, arguments: Sequence[Argument]) -> np.ndarray:
    """The arguments as the bytes of the parameters; parameters beyond them are zero."""
    if len(arguments) > len(program.parameters):
        raise ValueError(f"{program.name} has {len(program.parameters)} parameters, not {len(arguments)}")
    end = max((p.offset + p.bytes for p in program.parameters), default=0)
    stored = bytearray(max(end, 1))
    for parameter, argument in zip(program.parameters, arguments):
        stored[parameter.offset : parameter.offset + parameter.bytes] = _bytes(parameter, argument)
    return np.frombuffer(bytes(stored), np.uint8)


def _bytes(parameter: Parameter, argument: Argument) -> bytes:
    if isinstance(argument, Tensor):
        argument = argument.data_ptr()
    if isinstance(argument, float):
        return struct.pack({4: "<f", 8: "<d"}[parameter.bytes], argument)
    return int(argument).to_bytes(parameter.bytes, "little", signed=argument < 0)


def _extent(tensor: Tensor) -> tuple[int, int]:
    """First address and bytes of what a tensor spans."""
    if tensor.numel() == 0:
        return tensor.data_ptr(), 0
    span = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride()))
    return tensor.data_ptr(), (span + 1) * tensor.element_size()
