"""Training with several processes: rank and device of each, means over all, and the wrapped model.

Start them with ``torchrun --nproc-per-node=K train.py ...``. Differences from one process: the global batch is split
over the processes, gradients are averaged, batch normalisation uses the joined batch. The classification loss then
equals that of one process. The reconstruction and metric losses are means over the real images, or pairs of images,
of each process's share of the batch, averaged over the processes: the same objective, estimated from smaller groups.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..common.cli import UserError, first_line
from .sync_norm import synchronise_batch_norm


@dataclass(frozen=True)
class Processes:
    """This process, its device, and the number of processes."""

    rank: int
    world: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """The mean of ``values`` over the processes."""
        if self.world > 1:
            dist.all_reduce(values)
            values /= self.world
        return values

    def gather(self, value: Any) -> list[Any]:
        """The ``value`` of every process, ordered by rank."""
        if self.world == 1:
            return [value]
        values = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    @contextmanager
    def only_main_prints(self) -> Iterator[None]:
        """Silence every process except the main one."""
        with open(os.devnull, "w") as nowhere, ExitStack() as silenced:
            if not self.is_main:
                silenced.enter_context(redirect_stdout(nowhere))
                silenced.enter_context(redirect_stderr(nowhere))
            yield

    def parallel(self, model: nn.Module) -> nn.Module:
        """The model to train: itself for one process, else wrapped and synchronised; it shares the model's weights."""
        if self.world == 1:
            return model
        model = synchronise_batch_norm(model, self.device)
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)


def main_process() -> bool:
    """Whether this process has rank 0 or is the only one. Also valid before ``join``."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def join(device_name: str) -> Iterator[Processes]:
    """Join torchrun's processes, if it started this one, on the named device; leave them at the end."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    device = pick_device(device_name, int(os.environ.get("LOCAL_RANK", "0")) if world > 1 else None)
    if world == 1:
        yield Processes(0, 1, device)
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    yield Processes(dist.get_rank(), world, device)
    dist.destroy_process_group()  # not after an error: others may wait in a collective; torchrun ends them


def pick_device(name: str, local_rank: int | None = None) -> torch.device:
    """The device called `name`; "auto" is a GPU if there is one. UserError if the device cannot be used."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda" and local_rank is not None:
            device = torch.device("cuda", local_rank)
            torch.cuda.set_device(device)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        reason = first_line(error)
        raise UserError(f"--device {name} cannot be used here: {reason}", exit_code=2) from error
    return device
