"""What ptxas makes of a kernel: its instructions in order, its loops, its registers."""

from __future__ import annotations

import functools
import re
import subprocess
import tempfile
from typing import NamedTuple

import triton

from tests.emulator.program import Program, merged_loops
from tests.emulator.running import Counts

JUMP = re.compile(r"BRA(?:\.\w+)*\s+(?:!?U?P\d,?\s*)?`?\(?(?:\.L_x_\d+\)?)?(0x[0-9a-f]+)?")


class Sass(NamedTuple):
    """Names of the instructions up to the last EXIT, first and last instruction of each loop, registers of a thread."""

    names: list[str]
    loops: list[tuple[int, int]]
    registers: int

    @property
    def counted(self) -> list[tuple[int, str]]:
        """All but NOPs, with their numbers."""
        return [(i, name) for i, name in enumerate(self.names) if name != "NOP"]


@functools.lru_cache(maxsize=1024)
def sass(cubin: bytes) -> Sass:
    """Return the machine code of a kernel, by triton's own cuobjdump."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        code, usage = (_dumped(option, file.name) for option in ("-sass", "--dump-resource-usage"))
    lines = [(int(at, 16), text.strip()) for at, text in re.findall(r"/\*([0-9a-f]{4,5})\*/\s+([^;]*);", code)]
    number = {at: i for i, (at, _) in enumerate(lines)}
    jumps = [(number.get(int(found[1], 16)), i) for i, (_, text) in enumerate(lines) if (found := _jump(text))]
    names = [re.sub(r"^@!?U?P\w+\s+", "", text).split()[0] for _, text in lines]
    end = max((i for i, name in enumerate(names) if name == "EXIT"), default=len(names))
    loops = merged_loops((to, i) for to, i in jumps if to is not None and to < i)
    return Sass(names[: end + 1], loops, int(re.search(r"REG:(\d+)", usage)[1]))


def _jump(text: str) -> re.Match | None:
    found = JUMP.search(text)
    return found if found and found[1] else None


def _dumped(option: str, path: str) -> str:
    tool = triton.knobs.nvidia.cuobjdump.path
    return subprocess.run([tool, option, path], capture_output=True, text=True, check=True).stdout


def executed(code: Sass, program: Program, counts: Counts) -> tuple[float, bool]:
    """Return about how many machine instructions the counted warps executed, and whether by loops.

    Where PTX and machine code have the same number of loops, an instruction counts as often as its innermost loop's
    first PTX instruction. Else ptxas has copied or removed loops, and the PTX's count is scaled by the code's length.
    """
    loops = program.loops
    if len(loops) != len(code.loops):
        return float(counts.executions.sum()) * len(code.counted) / len(program.names), False
    of_loop = [float(counts.executions[first]) for first, _ in loops]
    total = 0.0
    for i, _ in code.counted:
        around = [k for k, (first, last) in enumerate(code.loops) if first <= i <= last]
        innermost = min(around, key=lambda k: code.loops[k][1] - code.loops[k][0], default=None)
        total += float(counts.executions[0]) if innermost is None else of_loop[innermost]
    return total, True
