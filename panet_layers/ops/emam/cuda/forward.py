"""EMAM's forward by kernels of CUDA C, for contiguous maps: launches, and torch products for what is small.

Where an instance fits in a block's shared memory, two reads and one write of the map: `pool`, `resident`. Else three
reads, of which one has two rows of each band twice, and one write: `pool`, `moments`, `band`.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ...availability import current_device
from ...cuda.baking import baked
from ...cuda.launching import Kernel, launch, limits
from ..tensors import Parameters, Saved, empty_saved
from . import planning
from .backward_plans import check_taken
from .planning import TooLarge, too_large

FOLDER = Path(__file__).parent
DTYPES = {torch.bfloat16: 0, torch.float16: 1, torch.float32: 2}
MOST_BLOCKS = 2**31 - 1  # and planes, which are counted in 32 bits


class Start(NamedTuple):
    """How a kernel starts: `sizes` are its last arguments."""

    kernel: Kernel
    blocks: int
    threads: int
    shared: int
    sizes: tuple[int, ...]

    def __call__(self, *arguments: Tensor | int | float) -> None:
        """Launch it with these arguments before the sizes."""
        launch(self.kernel, self.blocks, self.threads, self.shared, *arguments, *self.sizes)


def forward(x: Tensor, params: Parameters, groups: int, eps: float) -> tuple[Tensor, Saved]:
    """Return the attended map, like x (B, C, H, W), which is contiguous, and what the backward needs.

    Raises TooLarge where these kernels, or those of the backward, do not take x's size, Unusable where these cannot be
    compiled or launched.
    """
    out, saved = torch.empty_like(x), empty_saved(x, groups)
    if x.numel() == 0:
        return out, saved
    params = params.to(torch.float32)
    with current_device(x):
        starts = plan(x, groups)
        means, gates, mean, rstd, q, gate = (part.flatten(0, 1) for part in saved)
        n, k, _ = means.shape
        windows = x.new_empty((n, k, 9), dtype=torch.float32)
        starts["pool"](x, means, windows, n * k)

        w1, w3 = params.w1.flatten(1), params.w3.flatten(1)
        torch.baddbmm(params.b1[:, None], w1.expand(n, k, k), means, out=gates).sigmoid_()
        torch.softmax(torch.addmm(params.b3, windows.flatten(1), w3.mT), 1, out=q)
        p = params.beta.softmax(0)
        taps = p @ w3
        constants = (q, p, params.beta, params.b3, params.gamma, taps)
        if "resident" in starts:
            starts["resident"](x, gates, mean, rstd, *constants, out, gate, float(eps))
        else:
            starts["moments"](x, gates, mean, rstd, n * k, float(eps))
            starts["band"](x, gates, mean, rstd, *constants, out, gate)
    return out, saved


def plan(x: Tensor, groups: int) -> dict[str, Start]:
    """Return the kernels for x (B, C, H, W) on the current device, by name.

    Raise TooLarge where there are none, or none of the backward.
    """
    batch, channels, height, width = x.shape
    k = channels // groups
    return _plan(batch * groups, k, height, width, x.dtype, limits().shared_bytes, baked(k, height, width))


@functools.lru_cache(maxsize=256)
def _plan(
    n: int, k: int, height: int, width: int, dtype: torch.dtype, limit: int, sizes_baked: bool
) -> dict[str, Start]:
    size = dtype.itemsize
    shape = (k, height, width, size, limit)

    def start(name: str, blocks: int, cut: planning.Cut, defines: dict[str, int], sizes: dict[str, int]) -> Start:
        if sizes_baked:
            defines |= {"BAKED": 1, **{f"BAKED_{key}": value for key, value in sizes.items()}}
        defines |= {"DT": DTYPES[dtype], "THREADS": cut.threads}
        kernel = Kernel(str(FOLDER / f"{name}.cu"), name, tuple(sorted(defines.items())))
        return Start(kernel, blocks, cut.threads, cut.shared, tuple(sizes.values()))

    def of_planes(name: str) -> Start:
        cut = planning.planes(n * k, height, width, size, limit, name == "moments")
        if cut is None:
            raise too_large(*shape)
        defines = {"COLUMNS": cut.columns, "BY_PLANES": int(cut.by_planes)}
        sizes = {"H": height, "W": width, "count": cut.planes, "parts": cut.parts}
        return start(name, -(-n * k // cut.planes), cut, defines, sizes)

    of_map = {"K": k, "H": height, "W": width}
    starts = {"pool": of_planes("pool")}
    if whole := planning.resident(k, height, width, size, limit):
        defines, sizes = {"STRIP": whole.strip, "LANES": whole.lanes}, {**of_map, "shares": whole.shares}
        starts["resident"] = start("resident", n, whole, defines, sizes)
    elif cut := planning.bands(k, height, width, size, limit):
        defines = {"STRIP": cut.strip, "OWN_STRIP": cut.own_strip}
        sizes = {**of_map, "shares": cut.shares, "stack": cut.stack, "bands": cut.bands, "own": cut.own}
        starts["moments"] = of_planes("moments")
        starts["band"] = start("band", n * cut.bands, cut, defines, sizes)
    else:
        raise too_large(*shape)
    if max(n * k, *(start.blocks for start in starts.values())) > MOST_BLOCKS:
        raise TooLarge(f"backend 'cuda' cannot run: it takes {MOST_BLOCKS} planes at most, got {n * k}; use 'triton'")
    check_taken(n, *shape)  # so that a forward that runs has a backward
    return starts
