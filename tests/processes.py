"""One process of two, on the CPU by gloo; in a file that imports little, so that it starts fast."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist


@contextmanager
def joined(rank: int, folder: str) -> Iterator[None]:
    """Join the other process, which uses the same folder, and leave it at the end."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    yield
    dist.destroy_process_group()
