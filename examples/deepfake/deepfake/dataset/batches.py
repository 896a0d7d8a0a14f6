"""The batches of an epoch as a function of seed and epoch alone, so that a resumed run equals an uninterrupted one.

Order and flips come from a generator seeded by (seed, epoch), the same in every process. A batch is the *global*
batch: process ``rank`` of ``world`` takes every ``world``-th image of it. So a checkpoint need not store them, and
any number of processes sees the same batches.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..common.workers import cores
from .images import Images
from .readers import read_ahead

Batch = tuple[Tensor, Tensor, Tensor]
"""images (B, 3, S, S) uint8, labels (B,) int64, indices (B,) int64"""


def seed_for(*numbers: int) -> int:
    """A 63-bit seed computed from several numbers; numbers that differ by 1 give independent seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


class TrainBatches(Dataset[Batch]):
    """The shuffled, flipped batches of one epoch. The last images, too few for a batch, are left out of the epoch."""

    def __init__(self, images: Images, batch_size: int, seed: int, epoch: int, rank: int = 0, world: int = 1) -> None:
        self.images, self.rank, self.world = images, rank, world
        generator = torch.Generator().manual_seed(seed_for(seed, epoch))
        order = torch.randperm(len(images), generator=generator)
        self.flips = torch.rand(len(images), generator=generator) < 0.5
        steps = len(images) // batch_size
        self.batches = order[: steps * batch_size].view(steps, batch_size)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, step: int) -> Batch:
        images, labels, indices = stack(self.images, self.batches[step, self.rank :: self.world].tolist())
        flip = self.flips[indices]
        images[flip] = images[flip].flip(-1)
        return images, labels, indices


class EvalBatches(Dataset[Batch]):
    """Every image once, in order, split over the processes without padding, so that none is counted twice."""

    def __init__(self, images: Images, batch_size: int, rank: int = 0, world: int = 1) -> None:
        self.images = images
        mine = torch.arange(len(images))[rank::world]
        self.batches = mine.split(max(1, batch_size // world)) if len(mine) else ()

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, step: int) -> Batch:
        return stack(self.images, self.batches[step].tolist())


def stack(images: Images, indices: list[int]) -> Batch:
    """Read the images at ``indices`` into one batch."""
    pixels, labels, _ = zip(*(images[index] for index in indices), strict=True)
    return torch.stack(pixels), torch.tensor(labels), torch.tensor(indices)


def load(
    batches: TrainBatches | EvalBatches, workers: int | None, first: int = 0, pin: bool = False
) -> Iterator[Batch]:
    """Iterate over the batches from step ``first`` on. UserError if an image cannot be read.

    ``workers`` processes read them (0: this process). None: one per core, at most 4, or 0 if the images are in memory.
    """
    if workers is None:
        workers = min(4, cores()) if batches.images.files else 0
    steps = range(first, len(batches))
    for batch in read_ahead(batches, steps, workers) if workers else map(batches.__getitem__, steps):
        yield cast(Batch, tuple(part.pin_memory() if pin else part for part in batch))


class Waited(Iterator[Batch]):
    """Iterates over the batches and counts the seconds spent waiting for them."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self.batches, self.seconds = batches, 0.0

    def __next__(self) -> Batch:
        started = time.monotonic()
        try:
            return next(self.batches)
        finally:
            self.seconds += time.monotonic() - started
