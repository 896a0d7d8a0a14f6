"""From the videos to the paper's Table I: prepares, trains Xception, RECCE and PANet, evaluates, writes a report.

    python examples/deepfake/reproduce.py FFPP OUT --plan      # the steps, and what they will take; runs nothing
    python examples/deepfake/reproduce.py FFPP OUT             # all of them, then OUT/report/report.md and .html

FFPP is FaceForensics++'s tree, or one of forge.py's. The recipe is the paper's, which train.py defaults to; the frames
are RECCE's (--profile recce). --train and --prepare change both, for all models alike. The epoch is chosen on the
validation split. A step that was done is not done again; a training that was stopped goes on: the same command goes on
after a kill. Machines that share OUT can each take one step of the plan (--step N), as the jobs of a SLURM array do:
first those that prepare, then those that train, then those that evaluate. --processes K trains on K GPUs.
"""

from __future__ import annotations

import argparse
import shlex
from functools import partial
from pathlib import Path
from typing import Any

import cli
import config
import estimates
import prepare
import reproduction_report
from checkpoint import CONFIG
from cli import Parser, UserError, positive_int, reading_input
from config import Settings
from destination import claim_destination
from manifest import MANIFEST, SPLITS
from reproduction_report import LOG, read_log
from steps import Step, run_step, run_steps
from table_one import MODELS, Result, read_result

RECIPE = "reproduce.json"
OWN = {"seed", "cache", "model", "data", "out", "emam", "scam", "methods", "watch_test"}  # of train.py's options


def main(argv: list[str] | None = None) -> None:
    """The command."""
    args = _parser().parse_args(argv)
    args.models, args.compressions = list(dict.fromkeys(args.models)), list(dict.fromkeys(args.compressions))
    with reading_input():
        settings = {model: _settings(args, model) for model in args.models}
        tasks = {compression: _tasks(args, compression) for compression in args.compressions}
    steps = plan(args, settings)
    if args.plan:
        show_plan(args, steps, settings, tasks)
        return
    with reading_input():
        claim_destination(args.out, RECIPE, _recipe(args))
    if args.step is not None:
        run_step(steps, args.step)
        return
    show_plan(args, steps, settings, tasks)
    run_steps(steps)
    report = args.out / "report"
    where = reproduction_report.write(report, results(args), _data(args), _recipe(args), args.also_chosen_on_test)
    print(f"== report: {where}")


def plan(args: argparse.Namespace, settings: dict[str, Settings]) -> list[Step]:
    """Every command, in order: preparations, trainings, evaluations."""
    preparations, trainings, evaluations = [], [], []
    for compression, data in _data(args).items():
        given = (str(args.source), str(data), "--compression", compression, "--profile", args.profile)
        manifest = data / MANIFEST
        preparations.append(
            Step(f"prepare {compression}", "prepare.py", given + tuple(args.prepare), done=manifest.is_file)
        )
        for model in args.models:
            for seed in range(args.seeds):
                run, name = _run(args, compression, model, seed), f"{compression} {model} seed {seed}"
                watch = ("--watch-test",) if args.also_chosen_on_test else ()
                arguments = ("--data", str(data), "--out", str(run), "--model", model, "--seed", str(seed), *watch)
                trainings.append(
                    Step(
                        *(f"train {name}", "train.py", arguments + tuple(args.train)),
                        done=partial(is_trained, run, settings[model].epochs),
                        needs=(manifest,),
                        begun=run / CONFIG,
                        processes=args.processes,
                    )
                )
                metrics = _metrics(run, compression)
                evaluations.append(
                    Step(
                        *(f"evaluate {name}", "evaluate.py", (str(run), "--data", str(data))),
                        done=metrics.is_file,
                        needs=(manifest, run / "best"),
                    )
                )
    return [*preparations, *trainings, *evaluations]


def is_trained(run: Path, epochs: int) -> bool:
    """Whether so many epochs are in a run's log."""
    return (run / LOG).is_file() and len(read_log(run)) >= epochs


def show_plan(
    args: argparse.Namespace, steps: list[Step], settings: dict[str, Settings], tasks: dict[str, list[prepare.Task]]
) -> None:
    """Print every step, and how long they should take and how much room, measured here."""
    for number, step in enumerate(steps, 1):
        print(f"{number:>4}  {'done' if step.done() else '    '}  {step.name:<34} python {shlex.join(step.command())}")
    if not args.estimate or all(step.done() for step in steps):
        return
    workers = prepare.parse_arguments([str(args.source), str(args.out), *args.prepare]).workers
    seconds = room = 0.0
    left = [step.name for step in steps if not step.done()]
    for compression, sources in tasks.items():
        if f"prepare {compression}" not in left:
            continue
        took, size = estimates.preparing(sources, workers)
        print(f"prepare {compression}: about {estimates.shown(took)}, {estimates.gigabytes(size)}")
        seconds, room = seconds + took, room + size
    for model, chosen in settings.items():
        train, val, test = (_images(next(iter(tasks.values())), split) / chosen.batch_size for split in SPLITS)
        training, scoring = estimates.step_times(chosen, args.processes)
        scoring_test = test * scoring * args.processes  # evaluate.py is one process
        each = {"train": chosen.epochs * (train * training + val * scoring), "evaluate": scoring_test}
        for kind, took in each.items():
            print(f"{kind} {model} once: about {estimates.shown(took)}")
            seconds += took * sum(name.split()[0] == kind and name.split()[2] == model for name in left)
    print(f"left: about {estimates.shown(seconds)} here, {estimates.gigabytes(room)} of crops")
    free = estimates.free_space(args.out)
    if free < room:
        raise UserError(f"{args.out}: {estimates.gigabytes(free)} free, about {estimates.gigabytes(room)} needed")


def _images(tasks: list[prepare.Task], split: str) -> int:
    return sum(task.count or 1 for task in tasks if task.source.split == split)


def results(args: argparse.Namespace) -> list[Result]:
    """What the evaluations found."""
    return [
        read_result(run, _metrics(run, compression), model, compression, seed)
        for compression in args.compressions
        for model in args.models
        for seed in range(args.seeds)
        for run in [_run(args, compression, model, seed)]
    ]


def _data(args: argparse.Namespace) -> dict[str, Path]:
    return {compression: args.out / "data" / compression for compression in args.compressions}


def _run(args: argparse.Namespace, compression: str, model: str, seed: int) -> Path:
    return args.out / "runs" / f"{compression}-{model}-seed{seed}"


def _metrics(run: Path, compression: str) -> Path:
    return run / f"{compression}-test" / "metrics.json"


def _settings(args: argparse.Namespace, model: str) -> Settings:
    given, resume = config.parse(args.train)
    own = sorted(OWN & given.keys())
    if resume or own:
        raise UserError(f"--train takes no --{own[0] if own else 'resume'}: the plan gives it", exit_code=2)
    return config.settle({**given, "model": model, "data": "data", "out": "out"})


def _tasks(args: argparse.Namespace, compression: str) -> list[prepare.Task]:
    given = [str(args.source), "unused", "--compression", compression, "--profile", args.profile, *args.prepare]
    arguments = prepare.parse_arguments(given)
    planned = (compression, args.profile, None, (1, 1), None)
    found = tuple(getattr(arguments, name) for name in ("compression", "profile", "frames", "shard", "index"))
    if found != planned:
        raise UserError("--prepare takes no --compression, --profile, --frames, --shard or --index", exit_code=2)
    tasks, missing, _ = prepare.plan(arguments)
    prepare.check_missing(missing, arguments)
    return tasks


def _recipe(args: argparse.Namespace) -> dict[str, Any]:
    """What all the runs of a folder share; seeds, models and compressions may be added to."""
    recipe = {"source": str(args.source.resolve()), "profile": args.profile, "train": shlex.join(args.train)}
    return recipe | {"prepare": shlex.join(args.prepare), "also_chosen_on_test": args.also_chosen_on_test}


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
    parser.add_argument("--processes", type=positive_int, default=1, help="GPUs of one training (default: 1)")
    parser.add_argument("--plan", action="store_true", help="print the steps and what they will take; run nothing")
    parser.add_argument("--no-estimate", dest="estimate", action="store_false", help="print the plan without timing")
    parser.add_argument("--step", type=positive_int, metavar="N", help="run the N-th step of the plan only, no report")
    parser.add_argument(
        "--also-chosen-on-test",
        action="store_true",
        help="a column, labelled so, with the best epoch's figures by the test split, as RECCE's code chooses",
    )
    return parser


if __name__ == "__main__":
    cli.run(main)
