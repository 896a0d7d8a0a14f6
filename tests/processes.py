"""A process among two, on the CPU by gloo; apart, so that starting it imports little."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist


@contextmanager
def joined(rank: int, folder: str) -> Iterator[None]:
    """Meet the other process, which was given the same folder, and part from it at the end."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    yield
    dist.destroy_process_group()
