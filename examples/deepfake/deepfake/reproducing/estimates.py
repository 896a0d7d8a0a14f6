"""How long a plan will take and how much room, from short measurements on this machine."""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from panet_layers.models import PANetLoss

from ..common.files import read_json
from ..media.faces import face_detector
from ..preparing.crops import RECORD, prepare_one
from ..preparing.tasks import Task
from ..training.distributed import pick_device
from ..training.run import build_model
from ..training.settings import Settings

TIMED_STEPS, MOST_SAMPLES = 3, 5


class Measured(NamedTuple):
    """Of one model: seconds of a step of training, seconds to score a batch, and bytes of a run."""

    training: float
    scoring: float
    room: int


def preparing(tasks: Sequence[Task], workers: int) -> tuple[float, int]:
    """Seconds and bytes to prepare all sources: one video is prepared, and counts for every other."""
    face_detector()  # loaded once, whatever the number of videos
    for sample in samples(tasks):
        with tempfile.TemporaryDirectory() as folder:
            task = dataclasses.replace(sample, folder=Path(folder) / "sample")
            started = time.monotonic()
            prepare_one(task)
            seconds = time.monotonic() - started
            crops = len(read_json(task.folder / RECORD)["rows"])
            size = sum(file.stat().st_size for file in task.folder.iterdir())
        if crops:
            break
    crops = max(1, crops)
    images = round(sum(task.count or crops for task in tasks) * crops / (sample.count or crops))
    return seconds / crops * images / max(1, min(workers, len(tasks))), size // crops * images


def samples(tasks: Sequence[Task]) -> Sequence[Task]:
    """A few videos of about the mean number of frames, as decoding takes as long whatever their number."""
    counts = [task.count or 0 for task in tasks]
    mean = sum(counts) / len(counts)
    nearest = min(counts, key=lambda count: abs(count - mean))
    near = [task for task, count in zip(tasks, counts, strict=True) if count == nearest]
    middle = len(near) // 2
    return near[middle : middle + MOST_SAMPLES]


def measure(settings: Settings, processes: int) -> Measured:
    """Time steps on random images (no image is read from a disk), and count what last.pt and best/ hold.

    On a CPU the paper's variant is timed on a part of a batch, for a whole one takes long.
    """
    device = pick_device(settings.device)
    batch = max(1, settings.batch_size // processes)
    timed = batch if device.type == "cuda" or settings.variant == "tiny" else min(batch, 4)
    model = build_model(settings, pretrained=False).to(device)
    loss, labels = PANetLoss(), torch.arange(timed, device=device) % 2
    images = torch.rand(timed, 3, settings.image_size, settings.image_size, device=device) * 2 - 1
    if settings.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)

    def train() -> None:
        loss(model.train()(images), images, labels).total.backward()

    @torch.inference_mode()
    def score() -> None:
        model.eval()(images)

    training, scoring = (_seconds(work, device) * batch / timed for work in (train, score))
    return Measured(training, scoring, _run_size(model))


def _run_size(model: torch.nn.Module) -> int:
    """The weights twice, in last.pt and in best/, and Adam's two moments of each parameter."""
    weights, moments = model.state_dict().values(), 2 * list(model.parameters())
    return sum(2 * tensor.nbytes for tensor in weights) + sum(tensor.nbytes for tensor in moments)


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    for step in range(TIMED_STEPS + 1):
        if step == 1:  # the first one makes room and chooses algorithms
            started = time.monotonic()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
    return (time.monotonic() - started) / TIMED_STEPS


def shown(seconds: float) -> str:
    """A duration as a person plans with it."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def gigabytes(size: float) -> str:
    """Bytes as a person plans with them."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"


def free_space(folder: Path) -> int:
    """Bytes free where `folder` is, or will be."""
    while not folder.exists():
        folder = folder.parent
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
