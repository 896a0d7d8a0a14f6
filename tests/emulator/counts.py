"""Instructions, memory and modelled time of a layer's GPU kernels: `python -m tests.emulator.counts emam nchw`.

EMAM's kernels for contiguous maps (nchw) are those in CUDA C, with `--any-size` those of later shapes; all others are
Triton's. `--forward` leaves the backward out.

Of each launch: blocks, warps of a block, warps that a processor holds, waves; thread-instructions an element of the map
(PTX; machine code, ~ where its loops are not the PTX's; PTX by class); sectors a load and a store; bytes an element, as
asked for and with each sector once for a block; wavefronts of shared memory x 32 an element, and without bank
conflicts; microseconds by each resource of an H200 (`time_model.py`). The last table adds them up.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter

if __name__ == "__main__":
    os.environ["TRITON_INTERPRET"] = "0"  # triton reads it when a kernel is decorated

import torch

from panet_layers import EMAM, SCAM
from panet_layers.ops.cuda import baking
from tests.emulator.emulation import Execution, emulated
from tests.emulator.running import Options
from tests.emulator.time_model import CLASSES, MEMORY_BYTES, Cost, cost

LAYERS = {
    "emam": EMAM,
    "scam": lambda channels, groups, **options: SCAM(channels, **options),
    "cbam": lambda channels, groups, **options: SCAM(channels, mlp_bias=True, spatial_norm="batch", **options),
}
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
SHAPES = [
    ((32, 728, 19, 19), 8), ((32, 256, 37, 37), 8), ((32, 64, 147, 147), 8), ((32, 2048, 10, 10), 8),
    ((32, 256, 56, 56), 32),
]  # fmt: skip
PASSES = {"forward": 2, "backward": 3}  # of the map: the least that a direction reads and writes


def main() -> None:
    """Print a table for each shape and layout, then the sums."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layer", nargs="?", choices=LAYERS, default="emam")
    parser.add_argument("layouts", nargs="*", metavar="nchw|nhwc", help="both without it")
    parser.add_argument("--forward", action="store_true", help="without the backward")
    parser.add_argument("--any-size", action="store_true", help="CUDA C that reads sizes at run time")
    parser.add_argument("--shapes", type=int, nargs="*", default=range(len(SHAPES)), help="numbers of some, from 0")
    parser.add_argument("--blocks", type=int, default=24, help="of a launch that run, each for those up to the next")
    args = parser.parse_args()
    if unknown := set(args.layouts) - set(LAYOUTS):
        parser.error(f"unknown layout {', '.join(unknown)}; choose from {', '.join(LAYOUTS)}")
    torch.set_num_threads(1)
    baking.MOST_SHAPES = 0 if args.any_size else baking.MOST_SHAPES
    sums = []
    for shape, groups in (SHAPES[i] for i in args.shapes):
        for layout in args.layouts or LAYOUTS:
            launches = counted(args.layer, shape, groups, layout, args.blocks, not args.forward)
            print(table(shape, groups, layout, launches), flush=True)
            sums.append(summary(shape, groups, layout, launches))
    print(f"\n{'shape':26} layout | forward: sass-threads/el, issue, L1, sum of max, ideal us | backward the same")
    print(*sums, sep="\n")


def counted(
    layer: str, shape: tuple[int, ...], groups: int, layout: str, blocks: int, backward: bool = True
) -> dict[str, list[Execution]]:
    """Return the launches of each direction; only some blocks run, so their outputs are not complete."""
    x = torch.randn(shape[1:]).bfloat16().expand(shape).contiguous(memory_format=LAYOUTS[layout])
    grad = x.clone(memory_format=torch.preserve_format)
    backend = "cuda" if (layer, layout) == ("emam", "nchw") else "triton"  # which would count the kernels of nhwc
    module = LAYERS[layer](shape[1], groups, backend=backend, dtype=torch.bfloat16)
    with emulated(90, Options(check=False, count=2, sample=blocks), forbidden=()) as record:
        out = module(x.requires_grad_())
        forward = len(record.executions)
        if backward:
            out.backward(grad)
    return {"forward": record.executions[:forward], "backward": record.executions[forward:]}


def table(shape: tuple[int, ...], groups: int, layout: str, launches: dict[str, list[Execution]]) -> str:
    """Return a line for each launch."""
    elements = torch.Size(shape).numel()
    lines = [f"\n== {shape} G={groups} {layout}: {elements / 1e6:.1f} M elements"]
    classes = " ".join(f"{name[:5]:>5}" for name in CLASSES)
    lines.append(
        f"{'kernel':26}{'blocks':>8} w occ waves | {'ptx/el':>7}{'sass/el':>8}  | {classes}"
        " | sectors ld, st  bytes/el  of blocks  wavefronts*32/el, ideal"
        " | issue    L1    L2 matrix memory us"
    )
    lines += [_line(execution, cost(execution), elements) for part in launches.values() for execution in part]
    return "\n".join(lines)


def _line(execution: Execution, of: Cost, elements: int) -> str:
    threads = 32 / elements
    classes = " ".join(f"{of.by_class[c] * threads:5.1f}" for c in CLASSES)
    return (
        f"{execution.name:26}{execution.blocks:8} {execution.threads // 32} {of.resident_warps:3} {of.waves:5.1f} | "
        f"{of.ptx * threads:7.1f}{of.machine * threads:8.1f}{' ' if of.by_loops else '~'} | {classes} | "
        f"{of.sectors_of_load:7.1f} {of.sectors_of_store:6.1f} {of.bytes_asked / elements:9.2f} "
        f"{of.bytes_of_blocks / elements:10.2f} {of.wavefronts * threads:11.2f} {of.ideal_wavefronts * threads:12.2f}"
        f" | {of.issue:5.1f} {of.l1:5.1f} {of.l2:5.1f} {of.matrix:6.1f} {of.memory:6.1f}"
    )


def summary(shape: tuple[int, ...], groups: int, layout: str, launches: dict[str, list[Execution]]) -> str:
    """Return both directions in a line: instructions, times, their least, launches."""
    elements = torch.Size(shape).numel()
    directions = []
    for name, executions in launches.items():
        total: Counter[str] = Counter()
        for of in map(cost, executions):
            total.update(sass=of.machine * 32 / elements, issue=of.issue, l1=of.l1, longest=of.longest)
        ideal = elements * 2 * PASSES[name] / MEMORY_BYTES * 1e6
        times = " ".join(f"{total[key]:6.0f}" for key in ("sass", "issue", "l1", "longest"))
        directions.append(f"{times} {ideal:6.1f}  launches {len(executions)}")
    return f"{shape!s:22}G{groups:<3} {layout} | {' | '.join(directions)}"


if __name__ == "__main__":
    main()
