"""Estimates how long a plan takes and how much disk space it needs, from short measurements on this machine."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from panet_layers.models import PANetLoss

from ..common.cli import UserError
from ..common.files import free_space
from ..common.texts import read_json
from ..dataset.manifest import list_images
from ..media.faces import face_detector
from ..preparing.crops import RECORD, prepare_one
from ..preparing.tasks import Task
from ..training.distributed import pick_device
from ..training.placing import choose_channels_last, place
from ..training.run import build_model
from ..training.settings import Settings
from .plan import Experiment
from .steps import Step

TIMED_STEPS, MOST_SAMPLES = 3, 5


class Measured(NamedTuple):
    """Of one model: seconds of a training step, seconds to score a batch, and bytes of a run."""

    training: float
    scoring: float
    room: int


def print_estimate(experiment: Experiment, steps: Sequence[Step], tasks: dict[str, list[Task]], workers: int) -> None:
    """Print time and space of the steps that are not done. UserError if the disk has too little space.

    `tasks` are the videos to prepare, by compression; `workers` are prepare.py's processes.
    """
    left = [step.name.split() for step in steps if not step.done()]
    if not left:
        return
    counts = {compression: _images(experiment, compression, tasks) for compression in experiment.compressions}
    wanted = {name[2] for name in left if len(name) > 2}
    settings = {model: settings.over(experiment.processes) for model, settings in experiment.models.items()}
    measured = {model: measure(settings[model], experiment.processes) for model in settings if model in wanted}
    found: dict[str, tuple[float, float]] = {}
    for kind, compression, *of in left:
        name = " ".join([kind, compression, *of[:1]])
        if name not in found:
            images = counts[compression]
            if kind == "prepare":
                found[name] = preparing(tasks[compression], workers)
            elif kind == "cache":
                found[name] = 0.0, sum(3 * experiment.image_size**2 * images[part] for part in experiment.cached_splits)
            else:
                found[name] = estimate_run(experiment, kind, settings[of[0]], measured[of[0]], images)
            seconds, size = found[name]
            about = "" if kind == "cache" else f"about {shown(seconds)}, "  # the time to read images is not estimated
            print(f"{name}{' once' if of else ''}: {about}{gigabytes(size)}")
    totals = [found[" ".join(name[:3])] for name in left]
    seconds, room = (sum(values) for values in zip(*totals, strict=True))
    print(f"left: about {shown(seconds)} here, {gigabytes(room)}")
    free = free_space(experiment.out)
    if free < room:
        raise UserError(f"{experiment.out}: {gigabytes(free)} free, about {gigabytes(room)} needed")


def estimate_run(
    experiment: Experiment, kind: str, settings: Settings, measured: Measured, images: Counter[str]
) -> tuple[float, float]:
    """Seconds and bytes of a training or an evaluation."""
    batches = {split: count / settings.batch_size for split, count in images.items()}
    if kind == "evaluate":  # in one process, however many train
        return (batches["test"] + batches["val"]) * measured.scoring * experiment.processes, 0.0
    scored = batches["val"] + (batches["test"] if experiment.also_chosen_on_test else 0)
    return settings.epochs * (batches["train"] * measured.training + scored * measured.scoring), measured.room


def _images(experiment: Experiment, compression: str, tasks: dict[str, list[Task]]) -> Counter[str]:
    """How many images each split has, or will have."""
    counts: Counter[str] = Counter()
    if compression in tasks:
        for task in tasks[compression]:
            counts[task.source.split] += task.count or 1
    else:
        counts.update(record.split for record in list_images(experiment.data_folders[compression])[0])
    return counts


def preparing(tasks: Sequence[Task], workers: int) -> tuple[float, int]:
    """Seconds and bytes to prepare all sources, extrapolated from one video, which is prepared now."""
    face_detector()  # loads the detector, so that it is not part of the time
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
    """A few videos with about the mean number of frames, since decoding a video takes the same time for any number."""
    counts = [task.count or 0 for task in tasks]
    mean = sum(counts) / len(counts)
    nearest = min(counts, key=lambda count: abs(count - mean))
    near = [task for task, count in zip(tasks, counts, strict=True) if count == nearest]
    middle = len(near) // 2
    return near[middle : middle + MOST_SAMPLES]


def measure(settings: Settings, processes: int) -> Measured:
    """Time steps on random images (no image is read from disk), and count the bytes of last.pt and best/.

    On a CPU the paper's variant is timed on a part of a batch, since a whole batch takes long.
    """
    device = pick_device(settings.device)
    batch = max(1, settings.batch_size // processes)
    timed = batch if device.type == "cuda" or settings.variant == "tiny" else min(batch, 4)
    channels_last = choose_channels_last(settings.channels_last, device)
    model = place(build_model(settings, pretrained=False), device, channels_last)
    loss, labels = PANetLoss(), torch.arange(timed, device=device) % 2
    images = torch.rand(timed, 3, settings.image_size, settings.image_size, device=device) * 2 - 1
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)

    def train() -> None:
        loss(model.train()(images), images, labels).total.backward()

    @torch.inference_mode()
    def score() -> None:
        model.eval()(images)

    training, scoring = (_seconds(work, device) * batch / timed for work in (train, score))
    return Measured(training, scoring, _run_size(model))


def _run_size(model: torch.nn.Module) -> int:
    """Bytes of the weights, twice (last.pt and best/), and of Adam's two moments of each parameter."""
    weights, moments = model.state_dict().values(), 2 * list(model.parameters())
    return sum(2 * tensor.nbytes for tensor in weights) + sum(tensor.nbytes for tensor in moments)


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    for step in range(TIMED_STEPS + 1):
        if step == 1:  # the first step allocates memory and chooses algorithms
            started = time.monotonic()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
    return (time.monotonic() - started) / TIMED_STEPS


def shown(seconds: float) -> str:
    """A duration in words, with two significant digits or so."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def gigabytes(size: float) -> str:
    """A number of bytes in words."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"
