"""How EMAM's kernels start: each compiled for one shape, or, with its sizes as arguments, for all that suit."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ...cuda.launching import Kernel, launch
from . import planning

FOLDER = Path(__file__).parent
DTYPES = {torch.bfloat16: 0, torch.float16: 1, torch.float32: 2}
FIXED_THREADS = ("pool", "moments", "finish", "parameter_gradients")  # kernels of so many for any size


class Start(NamedTuple):
    """A kernel with its blocks, threads and shared memory; `sizes` are its last arguments."""

    kernel: Kernel
    blocks: int
    threads: int
    shared: int
    sizes: tuple[int, ...] = ()

    def __call__(self, *arguments: Tensor | int | float) -> None:
        """Launch it with these arguments before the sizes: tensors, then numbers."""
        launch(self.kernel, self.blocks, self.threads, self.shared, *arguments, *self.sizes)


def start(
    name: str, dtype: torch.dtype, blocks: int, threads: int, shared: int, sizes: dict[str, int], baked: bool,
    **defines: int,
) -> Start:  # fmt: skip
    """Return how a kernel starts; `baked`: its sizes and threads are compiled in.

    `defines` always are: they decide about registers.
    """
    if baked or name in FIXED_THREADS:
        defines["THREADS"] = threads
    else:
        defines["MOST_THREADS"] = planning.MOST_THREADS[False]
    if baked:
        defines |= {"BAKED": 1, **{f"BAKED_{key}": value for key, value in sizes.items()}}
    defines["DT"] = DTYPES[dtype]
    kernel = Kernel(str(FOLDER / f"{name}.cu"), name, tuple(sorted(defines.items())))
    return Start(kernel, blocks, threads, shared, () if baked else tuple(sizes.values()))
