"""Table I's experiment as a list of steps: prepare, cache, train, evaluate; what each leaves, and when it is done."""

from __future__ import annotations

import argparse
from collections import Counter
from functools import partial
from pathlib import Path

from ..common.cli import UserError
from ..common.files import read_json
from ..dataset.cached_pixels import description, open_cached
from ..dataset.manifest import MANIFEST, list_images
from ..training.checkpoint import CONFIG
from ..training.settings import Settings
from .steps import Step
from .table_one import LOG, mismatch, read_log


def plan(args: argparse.Namespace, settings: dict[str, Settings]) -> list[Step]:
    """Every command, in order: preparations, caches, trainings, evaluations."""
    preparations, caches, trainings, evaluations = [], [], [], []
    for compression in args.compressions:
        preparation = _preparation(args, compression)
        preparations.append(preparation)
        needs: tuple[Step, ...] = (preparation,)
        if args.cache:
            caches.append(_caching(args, compression, settings, needs))
            needs += (caches[-1],)
        for model, chosen in settings.items():
            for seed in range(args.seeds):
                training = _training(args, compression, model, seed, chosen.epochs, needs)
                trainings.append(training)
                evaluations.append(_evaluation(args, compression, model, seed, (preparation, training)))
    return [*preparations, *caches, *trainings, *evaluations]


def _preparation(args: argparse.Namespace, compression: str) -> Step:
    data = data_folders(args)[compression]
    given = (str(args.source), str(data), "--compression", compression, "--profile", args.profile, *args.prepare)
    return Step(f"prepare {compression}", "prepare.py", given, done=(data / MANIFEST).is_file)


def _caching(
    args: argparse.Namespace, compression: str, settings: dict[str, Settings], needs: tuple[Step, ...]
) -> Step:
    size = next(iter(settings.values())).image_size
    given = (str(data_folders(args)[compression]), str(cache_folder(args, compression)), "--image-size", str(size))
    return Step(
        *(f"cache {compression}", "cache.py", (*given, "--splits", *cached_splits(args))),
        done=partial(_is_cached, args, compression, settings, size),
        needs=needs,
    )


def _training(
    args: argparse.Namespace, compression: str, model: str, seed: int, epochs: int, needs: tuple[Step, ...]
) -> Step:
    run = run_folder(args, compression, model, seed)
    given = ["--data", str(data_folders(args)[compression]), "--out", str(run), "--model", model, "--seed", str(seed)]
    given += ["--watch-test"] if args.also_chosen_on_test else []
    given += ["--cache", str(cache_folder(args, compression))] if args.cache else []
    return Step(
        *(f"train {compression} {model} seed {seed}", "train.py", (*given, *args.train)),
        done=partial(is_trained, run, epochs),
        needs=needs,
        begun=run / CONFIG,
        processes=args.processes,
    )


def _evaluation(args: argparse.Namespace, compression: str, model: str, seed: int, needs: tuple[Step, ...]) -> Step:
    run = run_folder(args, compression, model, seed)
    given = (str(run), "--data", str(data_folders(args)[compression]))
    return Step(
        *(f"evaluate {compression} {model} seed {seed}", "evaluate.py", given),
        done=partial(is_evaluated, run, metrics_file(run, compression)),
        needs=needs,
    )


def is_trained(run: Path, epochs: int) -> bool:
    """Whether so many epochs are in a run's log."""
    return (run / LOG).is_file() and len(read_log(run)) >= epochs


def is_evaluated(run: Path, metrics: Path) -> bool:
    """Whether the metrics are of the run's best epoch, as far as it is trained, and of its data."""
    return metrics.is_file() and (run / LOG).is_file() and mismatch(run, read_json(metrics)) is None


def _is_cached(args: argparse.Namespace, compression: str, settings: dict[str, Settings], size: int) -> bool:
    """Whether the arrays are there, or no training is left that would read them."""
    runs = [(run_folder(args, compression, model, seed), model) for model in settings for seed in range(args.seeds)]
    if all(is_trained(run, settings[model].epochs) for run, model in runs):
        return True
    data = data_folders(args)[compression]
    if not (data / MANIFEST).is_file():
        return False
    records, fingerprint = list_images(data)
    counts = Counter(record.split for record in records)
    try:
        for split in cached_splits(args):
            open_cached(cache_folder(args, compression), split, description(fingerprint, counts[split], size))
    except UserError:
        return False
    return True


def data_folders(args: argparse.Namespace) -> dict[str, Path]:
    """Where the crops of each compression are."""
    return {compression: args.out / "data" / compression for compression in args.compressions}


def run_folder(args: argparse.Namespace, compression: str, model: str, seed: int) -> Path:
    """Where a training is."""
    return args.out / "runs" / f"{compression}-{model}-seed{seed}"


def metrics_file(run: Path, compression: str) -> Path:
    """Where evaluate.py leaves the figures of a run."""
    return run / f"{compression}-test" / "metrics.json"


def cache_folder(args: argparse.Namespace, compression: str) -> Path:
    """Where a compression's decoded crops are."""
    return args.out / "cache" / compression


def cached_splits(args: argparse.Namespace) -> list[str]:
    """The splits that trainings read."""
    return ["train", "val", *(["test"] if args.also_chosen_on_test else [])]
