"""Estimates how long a plan takes and how much disk space it needs, from short measurements on this machine."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..common.cli import UserError
from ..common.files import free_space, shown_size
from ..common.texts import read_json
from ..dataset.manifest import list_images
from ..media.faces import face_detector
from ..preparing.crops import RECORD, prepare_one
from ..preparing.tasks import Task
from ..training.distributed import pick_device
from ..training.settings import Settings
from .plan import Experiment
from .reading_times import seconds_to_read, step_with_reading
from .step_times import Measured, measure
from .steps import Step

MOST_SAMPLES = 5


class Preparing(NamedTuple):
    """Seconds and bytes to prepare all sources of a compression, and seconds to read one of its crops in a training."""

    seconds: float
    room: int
    reading: float


def print_estimate(
    experiment: Experiment, steps: Sequence[Step], tasks: dict[str, list[Task]], workers: int
) -> dict[str, float]:
    """Print time and space of the steps that are not done; returns the seconds of an epoch of each training left.

    `tasks` are the videos to prepare, by compression; `workers` are prepare.py's processes. UserError if the disk has
    too little space.
    """
    left = [step.name for step in steps if not step.done()]
    if not left:
        return {}
    settings = {model: settings.over(experiment.processes) for model, settings in experiment.models.items()}
    costs = _costs(experiment, settings, list(dict.fromkeys(map(_whatever_seed, left))), tasks, workers)
    for name, (seconds, size) in costs.items():
        kind, _, *of = name.split()
        about = "" if kind == "cache" else f"about {shown(seconds)}, "  # the time to fill a cache is not estimated
        print(f"{name}{' once' if of else ''}: {about}{shown_size(size)}")
    seconds, room = (sum(values) for values in zip(*(costs[_whatever_seed(name)] for name in left), strict=True))
    print(f"left: about {shown(seconds)} here, {shown_size(room)}")
    free = free_space(experiment.out)
    if free < room:
        raise UserError(f"{experiment.out}: {shown_size(free)} free, about {shown_size(room)} needed")
    trainings = [name for name in left if name.startswith("train ")]
    return {name: costs[_whatever_seed(name)][0] / settings[name.split()[2]].epochs for name in trainings}


def _whatever_seed(name: str) -> str:
    """Of a step's name what it costs: "train c23 panet" of "train c23 panet seed 0"."""
    return " ".join(name.split()[:3])


def _costs(
    experiment: Experiment,
    settings: dict[str, Settings],
    names: Sequence[str],
    tasks: dict[str, list[Task]],
    workers: int,
) -> dict[str, tuple[float, float]]:
    """Seconds and bytes of each of these steps, measured now."""
    steps = {name: name.split() for name in names}
    compressions = list(dict.fromkeys(compression for _, compression, *_ in steps.values()))
    models = dict.fromkeys(model for _, _, *of in steps.values() for model in of)
    images = {name: _images(experiment, name, tasks) for name in compressions}
    measured = {name: _measure(settings[name], experiment.processes) for name in models}
    prepared = {name: preparing(tasks[name], workers, experiment.image_size) for name in compressions if name in tasks}
    reading = {name: prepared[name].reading if name in tasks else _reading(experiment, name) for name in compressions}
    costs: dict[str, tuple[float, float]] = {}
    for name, (kind, compression, *of) in steps.items():
        if kind == "prepare":
            costs[name] = prepared[compression][:2]
        elif kind == "cache":
            count = sum(images[compression][split] for split in experiment.cached_splits)
            costs[name] = 0.0, 3 * experiment.image_size**2 * count
        else:
            about = settings[of[0]], measured[of[0]], images[compression], reading[compression]
            costs[name] = estimate_run(experiment, kind, *about)
    return costs


def _measure(settings: Settings, processes: int) -> Measured:
    """`measure`; where this machine cannot run so many processes, of one process, with a line that says so."""
    try:
        return measure(settings, processes)
    except UserError as error:
        if processes == 1:
            raise
        print(f"what {processes} processes wait for each other is not counted: {error}")
        return measure(dataclasses.replace(settings, batch_size=max(1, settings.batch_size // processes)), 1)


def _reading(experiment: Experiment, compression: str) -> float:
    """Seconds to read an image of a prepared compression; 0, and a line that says why, where that cannot be timed."""
    folder = experiment.data_folders[compression]
    files = [folder / record.path for record in list_images(folder)[0] if record.split == "train"]
    try:
        return seconds_to_read(files, experiment.image_size) if files else 0.0
    except UserError as error:
        print(f"reading images is not counted: {error}")
        return 0.0


def estimate_run(
    experiment: Experiment, kind: str, settings: Settings, measured: Measured, images: Counter[str], reading: float
) -> tuple[float, float]:
    """Seconds and bytes of a training or an evaluation; `reading`: seconds in which one process reads an image.

    A cache is read in no time, and by trainings only.
    """
    if experiment.cache and kind == "train":
        reading = 0.0
    together = 1 if kind == "evaluate" else experiment.processes  # however many train, one process evaluates
    device, batch = pick_device(settings.device), settings.batch_size / experiment.processes
    workers = settings.workers if kind == "train" else None  # evaluate.py gets no --workers
    training, scoring = (
        step_with_reading(step, batch, reading, workers, together, device)
        for step in (measured.training, measured.scoring)
    )
    if kind == "evaluate":
        return (images["test"] + images["val"]) / batch * scoring, 0.0
    batches = {split: count / settings.batch_size for split, count in images.items()}
    scored = batches["val"] + (batches["test"] if experiment.also_chosen_on_test else 0)
    return settings.epochs * (batches["train"] * training + scored * scoring), measured.room


def _images(experiment: Experiment, compression: str, tasks: dict[str, list[Task]]) -> Counter[str]:
    """How many images each split has, or will have."""
    counts: Counter[str] = Counter()
    if compression in tasks:
        for task in tasks[compression]:
            counts[task.source.split] += task.count or 1
    else:
        counts.update(record.split for record in list_images(experiment.data_folders[compression])[0])
    return counts


def preparing(tasks: Sequence[Task], workers: int, image_size: int) -> Preparing:
    """What it takes to prepare all sources, extrapolated from one video, which is prepared now."""
    face_detector()  # loads the detector, so that it is not part of the time
    for sample in samples(tasks):
        with tempfile.TemporaryDirectory() as folder:
            task = dataclasses.replace(sample, folder=Path(folder) / "sample")
            started = time.monotonic()
            prepare_one(task)
            seconds = time.monotonic() - started
            files = [task.folder / Path(row["path"]).name for row in read_json(task.folder / RECORD)["rows"]]
            crops, reading = len(files), seconds_to_read(files, image_size) if files else 0.0
            size = sum(file.stat().st_size for file in task.folder.iterdir())
        if crops:
            break
    crops = max(1, crops)
    images = round(sum(task.count or crops for task in tasks) * crops / (sample.count or crops))
    return Preparing(seconds / crops * images / max(1, min(workers, len(tasks))), size // crops * images, reading)


def samples(tasks: Sequence[Task]) -> Sequence[Task]:
    """A few videos with about the mean number of frames, since decoding a video takes the same time for any number."""
    counts = [task.count or 0 for task in tasks]
    mean = sum(counts) / len(counts)
    nearest = min(counts, key=lambda count: abs(count - mean))
    near = [task for task, count in zip(tasks, counts, strict=True) if count == nearest]
    middle = len(near) // 2
    return near[middle : middle + MOST_SAMPLES]


def shown(seconds: float) -> str:
    """A duration in words, with two significant digits or so."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
