"""Small PTX programs for the tests, and their launch on CPU tensors."""

from __future__ import annotations

from collections.abc import Sequence

from tests.emulator.program import Program, programs
from tests.emulator.running import DEFAULT, Argument, Options, Result, run

HEAD = """\
.version 8.0
.target sm_{sm}
.address_size 64
.extern .shared .align 16 .b8 dynamic[];
.visible .entry small(
{parameters}
)
{{
.reg .pred %p<9>;
.reg .b16 %h<9>;
.reg .b32 %r<40>;
.reg .b64 %q<9>;
.reg .f32 %f<9>;
.reg .f64 %d<9>;
"""
# %r0: the thread; %q0, %q1: the first two parameters, moved on by four bytes for each thread.
THREAD = """\
mov.u32 %r0, %tid.x;
ld.param.u64 %q0, [small_param_0];
ld.param.u64 %q1, [small_param_1];
mad.wide.u32 %q0, %r0, 4, %q0;
mad.wide.u32 %q1, %r0, 4, %q1;
"""


def text(body: str, parameters: Sequence[str] = ("u64", "u64"), sm: int = 80) -> str:
    """Return a PTX module with one kernel."""
    declared = ",\n".join(f".param .{kind} small_param_{i}" for i, kind in enumerate(parameters))
    return HEAD.format(sm=sm, parameters=declared) + body + "\nret;\n}\n"


def program(body: str, parameters: Sequence[str] = ("u64", "u64")) -> Program:
    """Return that kernel, read."""
    return programs(text(body, parameters))["small"]


def launch(
    body: str, *arguments: Argument, threads: int = 32, blocks: int = 1, shared: int = 0, options: Options = DEFAULT
) -> Result:
    """Run it: `body` finds THREAD's registers. Arguments are tensors of four bytes an element."""
    kinds = ("u64",) * len(arguments)
    return run(program(THREAD + body, kinds), arguments, [blocks], threads, shared, options)
