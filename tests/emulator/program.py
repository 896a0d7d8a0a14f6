"""Reads PTX: a module's kernels, each as the machine's instructions, first registers and parameters."""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

import numpy as np

from tests.emulator.encoding import RECORD
from tests.emulator.forms import record
from tests.emulator.instructions import NUMBERS
from tests.emulator.registers import Registers


class Parameter(NamedTuple):
    """Where an argument is stored, its bytes, and its PTX type, such as u64."""

    offset: int
    bytes: int
    kind: str


class Program(NamedTuple):
    """One kernel. `names` and `lines` are those of the instructions, one by one."""

    name: str
    instructions: np.ndarray
    names: list[str]
    lines: list[int]
    registers: Registers
    parameters: list[Parameter]
    static_shared: int  # bytes of shared memory that the program declares; what a launch adds stands behind
    threads: int | None  # that a block must have, where the program says so

    @property
    def loops(self) -> list[tuple[int, int]]:
        """The first and last instruction of each loop."""
        branches = enumerate(self.instructions)
        return merged_loops(
            (int(row["jump"]), i) for i, row in branches if row["operation"] == NUMBERS["branch"] and row["jump"] <= i
        )


def merged_loops(backward) -> list[tuple[int, int]]:
    """Return [first, last] of backward jumps (to, from), those to one place merged."""
    loops: dict[int, int] = {}
    for first, last in backward:
        loops[first] = max(loops.get(first, 0), last)
    return sorted(loops.items())


@functools.lru_cache(maxsize=1024)
def programs(text: str) -> dict[str, Program]:
    """Return the kernels of a PTX module by name."""
    head, *kernels = re.split(r"^(?=\.visible \.entry)", re.sub(r"//[^\n]*", "", text), flags=re.M)
    outside = re.findall(r"\.extern\s+\.shared\s+\.align\s+\d+\s+\.b8\s+(\w+)\[\]", head)
    return {program.name: program for program in (_read(kernel, outside) for kernel in kernels)}


def _read(text: str, dynamic: list[str]) -> Program:
    head = re.match(r"\.visible \.entry\s+(\w+)\s*\((.*?)\)(.*?)\{", text, re.S)
    name, declared, directives = head.groups()
    body = text[head.end() :]
    body = body[: body.index("$L__func_end") if "$L__func_end" in body else body.rindex("}")]
    registers = Registers()
    parameters = _parameters(declared, registers)
    statements, labels, static_shared = _statements(_without_scopes(body), registers)
    registers.symbols |= dict.fromkeys(dynamic, -(-static_shared // 16) * 16)
    rows, names, lines = np.zeros(len(statements) + 1, RECORD), [], []
    rows["guard"] = -1
    for row, (statement, line) in zip(rows, [*statements, ("ret", 0)]):
        names.append(_fill(row, statement, registers, labels, name))
        row["line"] = line
        lines.append(line)
    threads = re.search(r"\.reqntid\s+(\d+)", directives)
    return Program(name, rows, names, lines, registers, parameters, static_shared, threads and int(threads[1]))


def _parameters(declared: str, registers: Registers) -> list[Parameter]:
    """The parameters, one after the other, each at a multiple of its size. Their names become symbols."""
    parameters, end = [], 0
    for kind, size, name in re.findall(r"\.param\s+(?:\.align\s+\d+\s+)?\.([a-z])(\d+)[^,]*?(\w+_param_\d+)", declared):
        size = int(size) // 8
        offset = -(-end // size) * size
        end = offset + size
        parameters.append(Parameter(offset, size, f"{kind}{8 * size}"))
        registers.symbols[name] = offset
    if len(parameters) != declared.count(".param"):
        raise NotImplementedError(f"parameters {declared!r}")
    return parameters


def _without_scopes(body: str) -> str:
    """The halves of 64-bit registers, which Triton takes in scopes: { .reg .b32 tmp; mov.b64 {tmp, %r1}, %rd1; }."""

    def plain(found: re.Match) -> str:
        halves = ", ".join("_" if part.strip() == found[1] else part.strip() for part in found[2].split(","))
        return f"mov.b64 {{{halves}}}, {found[3]};"

    scope = r"\{\s*\.reg \.b32 (\w+);\s*mov\.b64\s*\{([^}]*)\},\s*([^;]+);\s*\}"
    return re.sub(scope, plain, body)


def _statements(body: str, registers: Registers) -> tuple[list[tuple[str, int]], dict[str, int], int]:
    """Statements with their source lines, where labels are, bytes of shared memory. Registers become declared."""
    statements: list[tuple[str, int]] = []
    labels: dict[str, int] = {}
    line = shared = 0
    for text in filter(None, (raw.strip() for raw in body.split("\n"))):
        if found := re.match(r"\.loc\s+\d+\s+(\d+)", text):
            line = int(found[1])
            continue
        while found := re.match(r"(\$?\w+):\s*", text):
            labels[found[1]] = len(statements)
            text = text[found.end() :]
        if text.startswith("."):
            shared = _declare(text, registers, shared)
            continue
        statements += [(part.strip(), line) for part in text.split(";") if part.strip()]
    return statements, labels, shared


def _declare(text: str, registers: Registers, shared: int) -> int:
    """Registers and variables in shared memory, of which it returns the bytes so far; other directives say nothing."""
    if found := re.match(r"\.reg\s+\.(\w+)\s+(%\w+)<(\d+)>", text):
        registers.declare(found[1], [f"{found[2]}{i}" for i in range(int(found[3]))])
    elif found := re.match(r"\.shared\s+\.align\s+(\d+)\s+\.b8\s+(\w+)\[(\d+)\]", text):
        align, size = int(found[1]), int(found[3])
        registers.symbols[found[2]] = -(-shared // align) * align
        shared = registers.symbols[found[2]] + size
    elif re.match(r"\.(reg|shared|local)", text):
        raise NotImplementedError(text)
    return shared


def _fill(row: np.void, statement: str, registers: Registers, labels: dict[str, int], kernel: str) -> str:
    """Write one instruction into its record; return its name."""
    guard, name, rest = re.fullmatch(r"(@!?%\w+)?\s*([\w.:]+)\s*(.*)", statement, re.S).groups()
    operands = [found.strip() for found in re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s][^,]*", rest)]
    try:
        if guard:
            row["guard"], row["negated"] = registers.predicate(guard.lstrip("@!")), "!" in guard
        fields = record(name, operands, registers)
        if "jump" in fields:
            fields["jump"] = labels[fields["jump"]]
    except Exception as error:
        raise NotImplementedError(f"{kernel}: {statement!r}: {error!r}") from error
    for field, value in fields.items():
        if isinstance(value, list):
            row[field][: len(value)] = value
        else:
            row[field] = value
    return name
