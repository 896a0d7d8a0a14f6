"""EMAM's forward by kernels of CUDA C, for contiguous maps: launches, and torch products for what is small.

Where an instance fits in a block's shared memory, two reads and one write of the map: `pool`, `resident`. Else three
reads, of which one has two rows of each band twice, and one write: `pool`, `moments`, `band`.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ...availability import current_device
from ...cuda import launching
from ...cuda.baking import baked
from ..tensors import Parameters, Saved, empty_saved
from . import planning
from .backward_plans import check_taken
from .planning import TooLarge, too_large
from .starting import Start, start

MOST_BLOCKS = 2**31 - 1  # and planes, which are counted in 32 bits


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
    limit, is_baked = launching.machine.limits().shared_bytes, baked(k, height, width)
    return _plan(batch * groups, k, height, width, x.dtype, limit, is_baked)


@functools.lru_cache(maxsize=256)
def _plan(n: int, k: int, height: int, width: int, dtype: torch.dtype, limit: int, is_baked: bool) -> dict[str, Start]:
    shape = (k, height, width, dtype.itemsize, limit)

    def of_planes(name: str) -> Start:
        cut = planning.planes(n * k, *shape[1:], name == "moments", is_baked)
        if cut is None:
            raise too_large(*shape)
        sizes = {"H": height, "W": width, "count": cut.planes, "parts": cut.parts, "by_planes": int(cut.by_planes)}
        blocks = -(-n * k // cut.planes)
        return start(name, dtype, blocks, cut.threads, cut.shared, sizes, is_baked, COLUMNS=cut.columns)

    of_map = {"K": k, "H": height, "W": width}
    starts = {"pool": of_planes("pool")}
    if whole := planning.resident(*shape, is_baked):
        sizes = of_map | {"shares": whole.shares, "lanes": whole.lanes}
        starts["resident"] = start(
            "resident", dtype, n, whole.threads, whole.shared, sizes, is_baked, STRIP=whole.strip
        )
    elif cut := planning.bands(*shape, is_baked):
        sizes = of_map | {name: getattr(cut, name) for name in ("shares", "stack", "bands", "own", "own_strip")}
        starts["moments"] = of_planes("moments")
        starts["band"] = start("band", dtype, n * cut.bands, cut.threads, cut.shared, sizes, is_baked, STRIP=cut.strip)
    else:
        check_taken(n, *shape, is_baked)  # which says so where a map is too wide
        raise too_large(*shape)
    if max(n * k, *(start.blocks for start in starts.values())) > MOST_BLOCKS:
        raise TooLarge(f"backend 'cuda' cannot run: it takes {MOST_BLOCKS} planes at most, got {n * k}; use 'triton'")
    check_taken(n, *shape, is_baked)  # so that a forward that runs has a backward
    return starts
