"""Table I's experiment, and its plan: the steps that prepare, cache, train and evaluate, and when each is done."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..common.texts import read_json
from ..dataset.cached_pixels import description, is_cached
from ..dataset.manifest import MANIFEST, list_images
from ..evaluating.evaluation import METRICS_FILE, results_folder
from ..training.checkpoint import CONFIG
from ..training.log import LOG
from ..training.settings import Settings
from .steps import Step
from .table_one import Result, mismatch, read_log, read_result


@dataclass(frozen=True)
class Experiment:
    """What reproduce.py's options ask for.

    `models` has the settings of each model's trainings, but for data, out, model and seed; `seeds` is the number of
    trainings of each model on each compression.
    """

    source: Path
    out: Path
    compressions: list[str]
    models: dict[str, Settings]
    seeds: int
    profile: str
    train: list[str]
    prepare: list[str]
    cache: bool
    processes: int
    also_chosen_on_test: bool

    @property
    def image_size(self) -> int:
        """The side of the network's images, the same for all models."""
        return next(iter(self.models.values())).image_size

    @property
    def cached_splits(self) -> list[str]:
        """The splits that trainings read."""
        return ["train", "val", *(["test"] if self.also_chosen_on_test else [])]

    @property
    def data_folders(self) -> dict[str, Path]:
        """The folder of each compression's crops."""
        return {compression: self.out / "data" / compression for compression in self.compressions}

    def cached(self, compression: str) -> Path:
        """The folder of a compression's decoded crops."""
        return self.out / "cache" / compression

    def run(self, compression: str, model: str, seed: int) -> Path:
        """The folder of a training."""
        return self.out / "runs" / f"{compression}-{model}-seed{seed}"

    def metrics(self, compression: str, model: str, seed: int) -> Path:
        """The file with a run's metrics on the test split."""
        return results_folder(self.run(compression, model, seed), self.data_folders[compression]) / METRICS_FILE

    def trainings(self) -> list[tuple[str, int]]:
        """Model and seed of each training on one compression."""
        return [(model, seed) for model in self.models for seed in range(self.seeds)]

    def results(self) -> list[Result]:
        """The metrics of all trainings. UserError if one is missing or not of the training's best epoch."""
        return [
            read_result(self.run(compression, *of), self.metrics(compression, *of), compression, *of)
            for compression in self.compressions
            for of in self.trainings()
        ]


def plan(experiment: Experiment) -> list[Step]:
    """All steps, in order: preparations, caches, trainings, evaluations."""
    preparations, caches, trainings, evaluations = [], [], [], []
    for compression in experiment.compressions:
        preparation = _preparation(experiment, compression)
        preparations.append(preparation)
        needs: tuple[Step, ...] = (preparation,)
        if experiment.cache:
            caches.append(_caching(experiment, compression, needs))
            needs += (caches[-1],)
        for model, seed in experiment.trainings():
            training = _training(experiment, compression, model, seed, needs)
            trainings.append(training)
            evaluations.append(_evaluation(experiment, compression, model, seed, (preparation, training)))
    return [*preparations, *caches, *trainings, *evaluations]


def _preparation(experiment: Experiment, compression: str) -> Step:
    data = experiment.data_folders[compression]
    given = (experiment.source, data, "--compression", compression, "--profile", experiment.profile)
    return Step(f"prepare {compression}", "prepare.py", (*given, *experiment.prepare), done=(data / MANIFEST).is_file)


def _caching(experiment: Experiment, compression: str, needs: tuple[Step, ...]) -> Step:
    folders = experiment.data_folders[compression], experiment.cached(compression)
    given = (*folders, "--image-size", experiment.image_size, "--splits", *experiment.cached_splits)
    done = partial(_is_cached, experiment, compression)
    return Step(f"cache {compression}", "cache.py", given, done=done, needs=needs)


def _training(experiment: Experiment, compression: str, model: str, seed: int, needs: tuple[Step, ...]) -> Step:
    run, epochs = experiment.run(compression, model, seed), experiment.models[model].epochs
    given = ["--data", experiment.data_folders[compression], "--out", run, "--model", model, "--seed", seed]
    given += ["--watch-test"] if experiment.also_chosen_on_test else []
    given += ["--cache", experiment.cached(compression)] if experiment.cache else []
    name, done = f"train {compression} {model} seed {seed}", partial(is_trained, run, epochs)
    arguments = (*given, *experiment.train)
    return Step(name, "train.py", arguments, done, needs, started_file=run / CONFIG, processes=experiment.processes)


def _evaluation(experiment: Experiment, compression: str, model: str, seed: int, needs: tuple[Step, ...]) -> Step:
    run = experiment.run(compression, model, seed)
    done = partial(is_evaluated, run, experiment.metrics(compression, model, seed))
    given = (run, "--data", experiment.data_folders[compression])
    return Step(f"evaluate {compression} {model} seed {seed}", "evaluate.py", given, done=done, needs=needs)


def is_trained(run: Path, epochs: int) -> bool:
    """Whether a run's log has that many epochs."""
    return (run / LOG).is_file() and len(read_log(run)) >= epochs


def is_evaluated(run: Path, metrics: Path) -> bool:
    """Whether the metrics are those of the run's best epoch so far, on the run's data."""
    return metrics.is_file() and (run / LOG).is_file() and mismatch(run, read_json(metrics)) is None


def _is_cached(experiment: Experiment, compression: str) -> bool:
    """Whether the arrays are complete, or no training that would read them is left."""
    models = experiment.models
    if all(is_trained(experiment.run(compression, *of), models[of[0]].epochs) for of in experiment.trainings()):
        return True
    data = experiment.data_folders[compression]
    if not (data / MANIFEST).is_file():
        return False
    records, fingerprint = list_images(data)
    counts = Counter(record.split for record in records)
    return all(
        is_cached(experiment.cached(compression), split, description(fingerprint, counts[split], experiment.image_size))
        for split in experiment.cached_splits
    )
