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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

if __name__ == "__main__":
    os.environ["TRITON_INTERPRET"] = "0"  # triton reads it when a kernel is decorated

import torch
import triton

from tests.kernels.pretended_gpu import Launch, pretend, pretended_gpu

# Bytes of shared memory a block may have, by compute capability (CUDA C++ Programming Guide, technical specifications).
SHARED_LIMIT = {80: 163 << 10, 86: 99 << 10, 90: 227 << 10}
# Bytes of local memory of a thread: 32 registers, or 48 with triton 3.6, which EMAM's channels_last contract needs
# (bfloat16, K = 91, sm_80) for its nine sums beside a tile of eight columns. Narrower tiles would write more partial
# sums, 5/3 as many at a width of 19.
STACK_LIMIT = 128 if tuple(int(part) for part in triton.__version__.split(".")[:2]) >= (3, 8) else 192
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


class Case(NamedTuple):
    """One call of an operator, forward and backward."""

    layer: str
    shape: tuple[int, int, int, int]
    groups: int
    dtype: str
    layout: str

    def __str__(self) -> str:
        return f"{self.layer} {'x'.join(map(str, self.shape))} G={self.groups} {self.dtype} {self.layout}"


class Kernel(NamedTuple):
    """A compiled specialisation. `stack` is the bytes of local memory of a thread, to which its registers spill."""

    name: str
    target: int
    warps: int
    registers: int
    stack: int
    shared: int
    case: str  # the first case that launches it
    error: str = ""


def faulty(kernels: list[Kernel]) -> list[Kernel]:
    """The kernels that do not compile, spill more than STACK_LIMIT or do not fit the GPU's shared memory."""
    return [k for k in kernels if k.error or k.stack > STACK_LIMIT or k.shared > SHARED_LIMIT[k.target]]


@contextmanager
def compiling(capability: int, seen: Callable[[str, object], None]) -> Iterator[None]:
    """Compile what is launched in the block and launch nothing; call seen(name, kernel or exception)."""

    def compile_only(launch: Launch) -> None:
        try:
            seen(launch.function.__name__, launch.compiled())
        except Exception as error:  # any error of the compiler is a result
            seen(launch.function.__name__, error)

    with pretended_gpu(capability, compile_only):
        yield


def compiled(launch: Callable[[], object], capability: int, case: str = "") -> dict[str, Kernel]:
    """The kernels that `launch` needs on a GPU of this capability, by hash."""
    found: dict[str, Kernel] = {}

    def seen(name: str, kernel: object) -> None:
        if isinstance(kernel, Exception):
            first_line = next(iter(str(kernel).strip().splitlines()), "")
            found[f"{name} {first_line}"] = Kernel(
                name, capability, 0, 0, 0, 0, case, f"{type(kernel).__name__}: {first_line}"
            )
        elif kernel.hash not in found:
            registers, stack = _resources(kernel.asm["cubin"])
            metadata = kernel.metadata
            found[kernel.hash] = Kernel(name, capability, metadata.num_warps, registers, stack, metadata.shared, case)

    with compiling(capability, seen):
        launch()
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
            launch(Case(layer, (2, channels, height, width), 8, dtype, layout))
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


# (B, C, H, W), G. A narrow and a wide location of PANet, for CI; then its others, timm's stages and odd maps.
WIDE, NARROW = ((32, 728, 19, 19), 8), ((32, 64, 147, 147), 8)
ON_CHIP = ((32, 1024, 7, 7), 8)  # as large as an instance may be for EMAM's forward to hold it in registers
SHAPES = [
    WIDE, NARROW, ON_CHIP, ((32, 728, 38, 38), 8), ((32, 256, 37, 37), 8), ((32, 128, 74, 74), 8),
    ((32, 2048, 10, 10), 8), ((32, 256, 56, 56), 8), ((32, 256, 56, 56), 32), ((32, 1024, 14, 14), 32),
    ((1, 6, 5, 7), 1), ((3, 8, 4, 6), 8), ((2, 12, 1, 9), 3), ((2, 12, 9, 1), 3), ((2, 12, 1, 1), 3),
]  # fmt: skip
REPRESENTATIVE = {
    "emam": [(WIDE, "bfloat16", layout) for layout in LAYOUTS]
    + [(NARROW, "float32", layout) for layout in LAYOUTS]
    + [(ON_CHIP, "float32", "contiguous")],
    "scam": [(WIDE, "bfloat16", "contiguous"), (NARROW, "float32", "channels_last")],
}


def cases(layer: str, wide: bool = False) -> list[Case]:
    """The calls to compile; with `wide`, every shape in every precision."""
    chosen = REPRESENTATIVE[layer]
    if wide:
        chosen = [(shape, dtype, layout) for shape in SHAPES for dtype in DTYPES for layout in LAYOUTS]
    return [Case(layer, *shape, dtype, layout) for shape, dtype, layout in chosen]


def launch(case: Case) -> None:
    """The operator's forward and backward, as autograd calls them, on uninitialised memory."""
    from panet_layers import EMAM, SCAM

    dtype, channels = DTYPES[case.dtype], case.shape[1]
    x, grad = (torch.empty(case.shape, dtype=dtype).to(memory_format=LAYOUTS[case.layout]) for _ in range(2))
    ops = torch.ops.panet_layers
    if case.layer == "emam":
        settings = [p.detach() for p in EMAM(channels, case.groups, dtype=dtype).parameters()]
        _, *saved = ops.emam_fused_forward(x, *settings, case.groups, 1e-5)
        ops.emam_fused_backward(grad, x, *settings, *saved, case.groups)
    else:
        layer = SCAM(channels, spatial_norm="batch", dtype=dtype)
        fc1, fc2, conv, weight, bias = (p.detach() for p in layer.parameters())
        settings = [fc1, None, fc2, None, conv, weight, bias]
        _, *saved = ops.scam_fused_forward(x, *settings, None, None, True, 1e-5)
        ops.scam_fused_backward(grad, x, *settings, *saved, True, 1e-5)


def survey(layer: str, capabilities: list[int], wide: bool = False) -> list[Kernel]:
    """Every kernel of a layer, compiled once for each GPU."""
    found: list[Kernel] = []
    for capability in capabilities:
        kernels: dict[str, Kernel] = {}
        for case in cases(layer, wide):
            new = compiled(lambda case=case: launch(case), capability, str(case))
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
    parser.add_argument("--wide", action="store_true", help="every shape in every precision (minutes)")
    parser.add_argument(
        "--sizes", action="store_true", help="count the compilations over twenty image sizes, compile nothing"
    )
    parser.add_argument("--json", action="store_true", help="one list of objects instead of a table")
    args = parser.parse_args()
    if args.sizes:
        counts = {layout: codes_over_sizes(args.layer, 256, "bfloat16", layout) for layout in LAYOUTS}
        print(json.dumps(counts))
        return 0
    kernels = survey(args.layer, args.target, args.wide)
    print(json.dumps([k._asdict() for k in kernels]) if args.json else table(kernels))
    return int(bool(faulty(kernels)))


if __name__ == "__main__":
    sys.exit(main())
