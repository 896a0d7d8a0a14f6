"""From the videos to the paper's Table I: prepares, trains Xception, RECCE and PANet, evaluates, writes a report.

    python examples/deepfake/reproduce.py FFPP OUT --plan      # the steps, and what they will take; runs nothing
    python examples/deepfake/reproduce.py FFPP OUT             # all of them, then OUT/report/report.md and .html

FFPP is FaceForensics++'s tree, or one of forge.py's. The recipe is the paper's, which train.py defaults to; the frames
are RECCE's (--profile recce). --train and --prepare change both, for all models alike. The epoch is chosen on the
validation split. A step that was done is not done again; a training that was stopped goes on: the same command goes on
after a kill. Machines that share OUT can each take one step of the plan (--step N), as the jobs of a SLURM array do:
first those that prepare, then (--cache) those that decode, those that train, those that evaluate. --processes K trains
on K GPUs.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import prepare
from deepfake.common import cli
from deepfake.common.cli import Parser, UserError, positive_int, reading_input
from deepfake.common.destination import claim_destination
from deepfake.common.files import read_json
from deepfake.dataset.manifest import SPLITS, list_images
from deepfake.preparing.tasks import Task, check_missing, list_tasks
from deepfake.reproducing import estimates
from deepfake.reproducing import report as reproduction_report
from deepfake.reproducing.plan import cached_splits, data_folders, metrics_file, plan, run_folder
from deepfake.reproducing.steps import Step, run_step, run_steps
from deepfake.reproducing.table_one import MODELS, Result, read_result
from deepfake.training import settings as config
from deepfake.training.settings import Settings

RECIPE = "reproduce.json"
OWN = {
    **dict.fromkeys(("seed", "model", "data", "out", "resume", "watch_test"), "the plan gives it"),
    "cache": "give reproduce.py --cache, which makes one for all trainings",
    "emam": "PANet has it where the paper has it; ablate.py moves it",
    "scam": "PANet has it where the paper has it; ablate.py moves it",
    "methods": "Table I is of all methods; --prepare '--methods ...' takes fewer for train and test alike",
}
"""Of train.py's options, those that --train does not take, and why."""
FREE = {"source", "destination", "workers", "shard", "allow_missing"}
"""Of prepare.py's arguments, those that decide no crop: the manifest tells what is missing."""

Tasks = dict[str, list[Task]]  # by compression


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    args = _parser().parse_args(joined(sys.argv[1:] if argv is None else argv))
    args.models, args.compressions = list(dict.fromkeys(args.models)), list(dict.fromkeys(args.compressions))
    with reading_input():
        settings = {model: _settings(args, model) for model in args.models}
        recipe = _recipe(args, settings[args.models[0]])
        steps = plan(args, settings)
        tasks: Tasks = {} if args.step is not None else _tasks(args, steps)
    if args.plan:
        show_plan(args, steps, settings, tasks)
        return
    with reading_input():
        claim(args.out, recipe)
    if args.step is not None:
        run_step(steps, args.step)
        return
    show_plan(args, steps, settings, tasks)
    run_steps(steps)
    report = args.out / "report"
    where = reproduction_report.write(report, results(args), data_folders(args), recipe, args.also_chosen_on_test)
    print(f"== report: {where}")


def joined(argv: Sequence[str]) -> list[str]:
    """`--train X` as `--train=X`, and --prepare: argparse takes an X of one option for an option of its own."""
    found: list[str] = []
    for word in argv:
        if found and found[-1] in ("--train", "--prepare"):
            found[-1] += f"={word}"
        else:
            found.append(word)
    return found


def show_plan(args: argparse.Namespace, steps: list[Step], settings: dict[str, Settings], tasks: Tasks) -> None:
    """Print every step, and how long they should take and how much room, measured here."""
    left = []
    for number, step in enumerate(steps, 1):
        done = step.done()
        left += [] if done else [step.name.split()]
        print(f"{number:>4}  {'done' if done else '    '}  {step.name:<34} python {shlex.join(step.command())}")
    if args.estimate and left:
        show_estimate(args, left, settings, tasks)


def show_estimate(args: argparse.Namespace, left: list[list[str]], settings: dict[str, Settings], tasks: Tasks) -> None:
    """Print how long the steps left (the words of their names) should take, and how much room."""
    workers = _prepare_arguments(args, args.compressions[0], args.prepare).workers
    counts = {compression: _images(args, compression, tasks) for compression in args.compressions}
    wanted = {name[2] for name in left if len(name) > 2}
    measured = {model: estimates.measure(settings[model], args.processes) for model in settings if model in wanted}
    found: dict[str, tuple[float, float]] = {}
    for kind, compression, *of in left:
        name = " ".join([kind, compression, *of[:1]])
        if name not in found:
            images = counts[compression]
            if kind == "prepare":
                found[name] = estimates.preparing(tasks[compression], workers)
            elif kind == "cache":
                side = next(iter(settings.values())).image_size
                found[name] = 0.0, sum(3 * side**2 * images[split] for split in cached_splits(args))
            else:
                found[name] = _estimate_run(args, kind, settings[of[0]], measured[of[0]], images)
            took, size = found[name]
            about = "" if kind == "cache" else f"about {estimates.shown(took)}, "  # reading images is left out
            print(f"{name}{' once' if of else ''}: {about}{estimates.gigabytes(size)}")
    totals = [found[" ".join(name[:3])] for name in left]
    seconds, room = (sum(values) for values in zip(*totals, strict=True))
    print(f"left: about {estimates.shown(seconds)} here, {estimates.gigabytes(room)}")
    free = estimates.free_space(args.out)
    if free < room:
        raise UserError(f"{args.out}: {estimates.gigabytes(free)} free, about {estimates.gigabytes(room)} needed")


def _estimate_run(
    args: argparse.Namespace, kind: str, chosen: Settings, measured: estimates.Measured, images: Counter[str]
) -> tuple[float, float]:
    """Seconds and bytes of a training or an evaluation."""
    batches = {split: count / chosen.batch_size for split, count in images.items()}
    if kind == "evaluate":  # one process, whatever those of the training
        return batches["test"] * measured.scoring * args.processes, 0.0
    scored = batches["val"] + (batches["test"] if args.also_chosen_on_test else 0)
    return chosen.epochs * (batches["train"] * measured.training + scored * measured.scoring), measured.room


def _images(args: argparse.Namespace, compression: str, tasks: Tasks) -> Counter[str]:
    """How many images each split has, or will have."""
    counts: Counter[str] = Counter(dict.fromkeys(SPLITS, 0))
    if compression in tasks:
        for task in tasks[compression]:
            counts[task.source.split] += task.count or 1
    else:
        counts.update(record.split for record in list_images(data_folders(args)[compression])[0])
    return counts


def results(args: argparse.Namespace) -> list[Result]:
    """What the evaluations found."""
    return [
        read_result(run, metrics_file(run, compression), model, compression, seed)
        for compression in args.compressions
        for model in args.models
        for seed in range(args.seeds)
        for run in [run_folder(args, compression, model, seed)]
    ]


def _settings(args: argparse.Namespace, model: str) -> Settings:
    try:
        given, resume = config.parse(args.train)
        for name in [*given, *(["resume"] if resume else [])]:
            if name in OWN:
                raise UserError(f"takes no --{name.replace('_', '-')}: {OWN[name]}")
        return config.settle({**given, "model": model, "data": "data", "out": "out"})
    except UserError as error:
        raise UserError(f"--train {error}") from error


def _prepare_arguments(args: argparse.Namespace, compression: str, more: Sequence[str]) -> argparse.Namespace:
    given = [str(args.source), "unused", "--compression", compression, "--profile", args.profile, *more]
    try:
        arguments = prepare.parse_arguments(given)
    except UserError as error:
        raise UserError(f"--prepare {error}") from error
    planned = (compression, args.profile, None, (1, 1), None)
    found = tuple(getattr(arguments, name) for name in ("compression", "profile", "frames", "shard", "index"))
    if found != planned:
        raise UserError("--prepare takes no --compression, --profile, --frames, --shard or --index", exit_code=2)
    return arguments


def _tasks(args: argparse.Namespace, steps: list[Step]) -> Tasks:
    """The videos to prepare where that is left. UserError where some are missing: known before any work begins."""
    found = {}
    left = {step.name for step in steps if not step.done()}
    for compression in args.compressions:
        if f"prepare {compression}" in left:
            arguments = _prepare_arguments(args, compression, args.prepare)
            found[compression], missing, _ = list_tasks(args.source, args.out, *prepare.chosen(arguments))
            check_missing(missing, args.source, arguments.allow_missing)
            if not found[compression]:
                raise UserError(f"{args.source}: has no video in {compression}")
    return found


def _recipe(args: argparse.Namespace, settings: Settings) -> dict[str, Any]:
    """What decides the results of a folder, as far as it differs from the defaults; OUT's runs share it.

    Seeds, models and compressions may be added to; where the videos are and how fast the machine works may change.
    """
    free = (config.FREE_ON_RESUME - {"epochs"}) | OWN.keys()
    defaults = Settings(data="", out="")
    trained = {name: value for name, value in vars(settings).items() if value != getattr(defaults, name)}
    usual = vars(_prepare_arguments(args, args.compressions[0], []))
    given = vars(_prepare_arguments(args, args.compressions[0], args.prepare))
    prepared = {name: value for name, value in given.items() if value != usual[name] and name not in FREE}
    return {
        "profile": args.profile,
        "train": {name: value for name, value in trained.items() if name not in free},
        "prepare": {name: value.name if isinstance(value, Path) else value for name, value in prepared.items()},
        "processes": args.processes,
        "also_chosen_on_test": args.also_chosen_on_test,
    }


def claim(out: Path, recipe: dict[str, Any]) -> None:
    """Claim OUT for the recipe. UserError where another was begun there."""
    file, asked = out / RECIPE, "also_chosen_on_test"
    if recipe[asked] and file.is_file() and not read_json(file).get(asked):
        raise UserError(
            f"--also-chosen-on-test: the trainings in {out} log no figures of the test split (wanted a new OUT)"
        )
    claim_destination(out, RECIPE, recipe)


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error


def _parser() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=cli.path, metavar="FFPP", help="FaceForensics++'s folder, or forge.py's")
    parser.add_argument("out", type=cli.path, metavar="OUT", help="folder for crops, runs and the report")
    parser.add_argument(
        "--compressions", nargs="+", choices=("c23", "c40", "raw"), default=["c23", "c40"], help="default: c23 c40"
    )
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS), help="default: all three")
    parser.add_argument("--seeds", type=positive_int, default=3, help="trainings of each model (default: 3)")
    parser.add_argument("--profile", choices=("recce", "bench32"), default="recce", help="frames (default: recce)")
    parser.add_argument("--train", type=_words, default=[], metavar="'ARGS'", help="more arguments for train.py")
    parser.add_argument("--prepare", type=_words, default=[], metavar="'ARGS'", help="more arguments for prepare.py")
    parser.add_argument("--cache", action="store_true", help="decode the crops once, for all trainings (cache.py)")
    parser.add_argument("--processes", type=positive_int, default=1, help="GPUs of one training (default: 1)")
    parser.add_argument("--plan", action="store_true", help="print the steps and what they will take; run nothing")
    parser.add_argument("--no-estimate", dest="estimate", action="store_false", help="print the plan without timing")
    parser.add_argument("--step", type=positive_int, metavar="N", help="run the N-th step of the plan only, no report")
    parser.add_argument(
        "--also-chosen-on-test",
        action="store_true",
        help="a table, labelled so, of the best of all epochs by the test split, for ACC and AUC each, as RECCE's code "
        "chooses; from the first training on, it cannot be added later",
    )
    return parser


if __name__ == "__main__":
    cli.run(main)
