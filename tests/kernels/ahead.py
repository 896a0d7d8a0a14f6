"""Compile every launch of the fused operators for GPUs without having one: `python -m tests.kernels.ahead --help`.

The operators run on CPU tensors without values; the launches depend on shapes only.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

if __name__ == "__main__":
    os.environ["TRITON_INTERPRET"] = "0"  # triton reads it when a kernel is decorated

import triton

from tests.kernels.compiled_calls import Case, call, cases
from tests.kernels.pretended_gpu import Launch, pretend, pretended_gpu

# Bytes of shared memory a block may have, by compute capability (CUDA C++ Programming Guide, technical specifications).
SHARED_LIMIT = {80: 163 << 10, 86: 99 << 10, 90: 227 << 10, 120: 99 << 10}
# Bytes of local memory of a thread: 32 registers, or 48 with triton 3.6, which EMAM's contract needed (bfloat16,
# K = 91, sm_80) for its nine sums beside a tile of eight columns.
STACK_LIMIT = 128 if tuple(int(part) for part in triton.__version__.split(".")[:2]) >= (3, 8) else 192


class Kernel(NamedTuple):
    """A compiled specialisation. `stack` is the bytes of local memory of a thread, to which its registers spill."""

    name: str
    target: int
    warps: int
    registers: int
    stack: int
    shared: int
    case: str  # the first case that launches it
    constants: dict[str, object]  # what it is compiled for, by the names of its arguments
    error: str = ""


def faulty(kernels: list[Kernel]) -> list[Kernel]:
    """The kernels that do not compile, spill more than STACK_LIMIT or do not fit the GPU's shared memory."""
    return [k for k in kernels if k.error or k.stack > STACK_LIMIT or k.shared > SHARED_LIMIT[k.target]]


def compiled(launches: Callable[[], object], capability: int, case: str = "") -> dict[str, Kernel]:
    """The kernels that `launches` needs on a GPU of this capability, by hash. Nothing is launched."""
    found: dict[str, Kernel] = {}

    def compile_only(launch: Launch) -> None:
        name, constants = launch.function.__name__, launch.constants
        try:
            kernel = launch.compiled()
        except Exception as error:  # any error of the compiler is a result
            first_line = next(iter(str(error).strip().splitlines()), "")
            text = f"{type(error).__name__}: {first_line}"
            found[f"{name} {first_line}"] = Kernel(name, capability, 0, 0, 0, 0, case, constants, text)
            return
        if kernel.hash not in found:
            resources = kernel.metadata.num_warps, *_resources(kernel.asm["cubin"]), kernel.metadata.shared
            found[kernel.hash] = Kernel(name, capability, *resources, case, constants)

    with pretended_gpu(capability, compile_only):
        launches()
    return found


# Image sizes of one layer: small and large, odd, even, divisible by 16, oblong.
IMAGES = [(side, side) for side in (7, 8, 10, 14, 16, 19, 20, 28, 32, 37, 38, 56, 64, 74, 112, 147)]
IMAGES += [(24, 32), (48, 40), (13, 17), (33, 40)]


def codes_over_sizes(layer: str, channels: int, dtype: str, layout: str) -> dict[str, int]:
    """How many compilations of each kernel a layer needs for all IMAGES, forward and backward. Compiles none."""
    asked: set[tuple[str, str]] = set()

    def hook(*, key: str, fn: object, **_: object) -> bool:
        asked.add((fn.jit_function.__name__, key))
        return True  # no compilation, no launch

    pretend(90)
    triton.knobs.runtime.jit_cache_hook = hook
    try:
        for height, width in IMAGES:
            call(Case(layer, (2, channels, height, width), 8, dtype, layout))
    finally:
        triton.knobs.runtime.jit_cache_hook = None
    return dict(Counter(name for name, _ in asked))


def _resources(cubin: bytes) -> tuple[int, int]:
    """Registers and bytes of stack of a thread."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        tool = triton.knobs.nvidia.cuobjdump.path
        text = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", text.stdout).groups()
    return int(registers), int(stack)


def survey(layer: str, capabilities: list[int], which: str = "few") -> list[Kernel]:
    """Every kernel of a layer, compiled once for each GPU."""
    found: list[Kernel] = []
    for capability in capabilities:
        kernels: dict[str, Kernel] = {}
        for case in cases(layer, which):
            new = compiled(lambda case=case: call(case), capability, str(case))
            kernels |= {key: kernel for key, kernel in new.items() if key not in kernels}
        found += kernels.values()
    return found


def table(kernels: list[Kernel]) -> str:
    """One line for each kernel."""
    lines = [f"{'kernel':32} target warps registers stack  shared  first launched by"]
    for k in kernels:
        line = f"{k.name:32} sm_{k.target:<4} {k.warps:4} {k.registers:9} {k.stack:5} {k.shared:7}  {k.case}"
        lines.append(f"{line}  {k.error}".rstrip())
    return "\n".join(lines)


def main() -> int:
    """Print the kernels; 1 if one does not compile, spills or does not fit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layer", choices=("emam", "scam"), default="emam")
    parser.add_argument("--target", type=int, nargs="+", choices=SHARED_LIMIT, default=list(SHARED_LIMIT))
    parser.add_argument(
        "--cases",
        choices=("few", "paths", "all"),
        default="few",
        help="paths: every way to launch; all: every shape in every precision (minutes)",
    )
    parser.add_argument(
        "--sizes", action="store_true", help="count the compilations over twenty image sizes, compile nothing"
    )
    parser.add_argument("--json", action="store_true", help="one list of objects instead of a table")
    args = parser.parse_args()
    if args.sizes:
        layouts = ("contiguous", "channels_last") if args.layer == "scam" else ("channels_last",)
        counts = {layout: codes_over_sizes(args.layer, 256, "bfloat16", layout) for layout in layouts}
        print(json.dumps(counts))
        return 0
    kernels = survey(args.layer, args.target, args.cases)
    print(json.dumps([k._asdict() for k in kernels]) if args.json else table(kernels))
    return int(bool(faulty(kernels)))


if __name__ == "__main__":
    sys.exit(main())
