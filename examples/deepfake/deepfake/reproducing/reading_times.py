"""How long a training reads an image: decoding, resizing, flipping; timed on a few crops."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..common.workers import cores
from ..dataset.batches import TrainBatches
from ..dataset.images import Images

MOST_READ = 32


def seconds_to_read(files: Sequence[Path], image_size: int) -> float:
    """Seconds for one process to read one of these crops, from a few of them. UserError if one cannot be read."""
    chosen = [str(file) for file in files[:: max(1, len(files) // MOST_READ)][:MOST_READ]]
    images = Images(
        labels=np.zeros(len(chosen)), videos=chosen, methods=chosen, names=chosen, description="", fingerprint="",
        image_size=image_size, files=chosen,
    )  # fmt: skip
    batches = TrainBatches(images, len(chosen), seed=0, epoch=0)
    started = time.monotonic()
    batches[0]
    return (time.monotonic() - started) / len(chosen)


def step_with_reading(
    step: float, images: float, reading: float, workers: int | None, processes: int, device: torch.device
) -> float:
    """Seconds of a step of so many images in each process, each read in `reading` seconds.

    On a GPU the readers work while it computes; on a CPU they take its time.
    """
    readers = min(4, max(1, cores() // processes)) if workers is None else workers
    seconds = images * reading / max(1, readers)
    return max(step, seconds) if device.type == "cuda" and readers else step + seconds
