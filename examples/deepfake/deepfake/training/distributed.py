"""Training with several processes: rank and device of each, means over all, and the wrapped model.

Start them with ``torchrun --nproc-per-node=K train.py ...``. Differences from one process: the global batch is split
over the processes, gradients are averaged, batch normalisation uses the joined batch. The classification loss then
equals that of one process. The reconstruction and metric losses are means over the real images, or pairs of images,
of each process's share of the batch, averaged over the processes: the same objective, estimated from smaller groups.

Where one process is lost, each of the others ends with one line: at once if it was killed, after LONGEST_WAIT if it
hangs or its machine is gone. With NCCL, which was not tried, its own timeout of ten minutes comes first.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..common.cli import UserError, first_line
from .patience import Patience
from .sync_norm import synchronise_batch_norm

LONGEST_WAIT = 30 * 60.0  # seconds, for the other processes
GLOOS_TIMEOUT = timedelta(days=7)
"""It also counts while this process is stopped: Patience, which does not, ends a wait before."""


class ProcessLost(UserError):
    """Another process of this training has ended or cannot be reached."""


@dataclass(frozen=True)
class Processes:
    """This process, its device, and the number of processes."""

    rank: int
    world: int
    device: torch.device
    patience: Patience | None = None  # with the others, if there are any

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def waiting(self) -> AbstractContextManager[None]:
        """For a block that waits for the other processes: where they do not come, this process ends."""
        return nullcontext() if self.patience is None else self.patience.waiting()

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
        with self.waiting():
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
        with self.waiting():
            return DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)


def main_process() -> bool:
    """Whether this process has rank 0 or is the only one. Also valid before ``join``."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def join(device_name: str, advice: str = "") -> Iterator[Processes]:
    """Join torchrun's processes, if it started this one, on the named device; leave them at the end.

    ProcessLost where one of them ends early; its message, as that of a wait that is too long, ends with the advice.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    device = pick_device(device_name, int(os.environ.get("LOCAL_RANK", "0")) if world > 1 else None)
    if world == 1:
        yield Processes(0, 1, device)
        return
    backend, timeout = ("nccl", None) if device.type == "cuda" else ("gloo", GLOOS_TIMEOUT)
    waited = f"waited {LONGEST_WAIT / 60:.3g} minutes for the other processes of this training{advice}"
    patience = Patience(LONGEST_WAIT, waited)
    try:
        with patience.waiting():
            dist.init_process_group(backend, timeout=timeout)
        yield Processes(dist.get_rank(), world, device, patience)
    except RuntimeError as error:
        if not _of_a_lost_process(error):
            raise
        lost = "another process of this training has ended or cannot be reached"
        raise ProcessLost(f"{lost} ({_reason(error)}){advice}") from error
    dist.destroy_process_group()  # not after an error: others may wait in a collective; torchrun ends them


def _of_a_lost_process(error: RuntimeError) -> bool:
    """Whether NCCL, gloo or the store says so: gloo's errors have no type of their own, but a place in its sources."""
    return isinstance(error, dist.DistError) or re.search(r"\bgloo/\S+\.(cc|h):\d", str(error)) is not None


def _reason(error: RuntimeError) -> str:
    """What gloo or NCCL says, without the place in its sources and its advice to look elsewhere."""
    return re.sub(r"^\[\S+\] ", "", first_line(error)).partition(". ")[0]


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
