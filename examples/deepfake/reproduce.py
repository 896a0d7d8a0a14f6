"""Reproduce the paper's Table I from the videos: prepare, train Xception, RECCE and PANet, evaluate, write a report.

    python examples/deepfake/reproduce.py FFPP OUT --plan      # print the steps, their time and space; run nothing
    python examples/deepfake/reproduce.py FFPP OUT             # run all steps, then write OUT/report/report.md

FFPP is FaceForensics++'s folder, or one of forge.py's. The recipe is the paper's, train.py's default; the frames are
RECCE's (--profile recce). --train and --prepare change both, for all models alike. The best epoch is chosen on the
validation split. A preflight tries first what could fail after hours. After a stop, the same command continues:
finished steps are not repeated, and an interrupted training is resumed. Machines that share OUT can each run one step
(--step N), as the jobs of a SLURM array do: first those that prepare, then (with --cache) those that decode, those that
train, those that evaluate. --processes K trains on K GPUs. The report begins with the evaluations of published weights
that evaluate.py --recce-weights FILE --data OUT/data/c23 --out OUT/published/NAME has written.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import prepare
from deepfake.common import cli
from deepfake.common.cli import Parser, UserError, positive_int, reading_input
from deepfake.common.destination import claim_destination
from deepfake.common.texts import read_json
from deepfake.preparing.frame_counts import PROFILES
from deepfake.preparing.tasks import Request, Task, check_missing, list_tasks
from deepfake.reproducing.estimates import print_estimate
from deepfake.reproducing.plan import Experiment, plan
from deepfake.reproducing.planned_data import Parts, planned, prepared, print_data
from deepfake.reproducing.preflight import preflight
from deepfake.reproducing.published_weights import FOLDER, read_published
from deepfake.reproducing.report import write_report
from deepfake.reproducing.steps import Step, numbered, print_plan, run_step, run_steps
from deepfake.reproducing.table_one import MODELS
from deepfake.sources.source import COMPRESSIONS
from deepfake.training import settings as config
from deepfake.training.encoder_weights import digest_of, is_timms
from deepfake.training.settings import Settings

RECIPE = "reproduce.json"
REFUSED = {
    **dict.fromkeys(("seed", "model", "data", "out", "resume", "watch_test"), "the plan sets it"),
    "cache": "give reproduce.py --cache, which makes one for all trainings",
    "emam": "PANet has it where the paper has it; ablate.py moves it",
    "scam": "PANet has it where the paper has it; ablate.py moves it",
    "methods": "Table I is of all methods; --prepare '--methods ...' takes fewer for train and test alike",
}
"""The options of train.py that --train does not take, and why."""


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    args = vars(_parser().parse_args(joined(sys.argv[1:] if argv is None else argv)))
    show_only, estimate, number = (args.pop(name) for name in ("plan", "estimate", "step"))
    with reading_input():
        experiment = read_experiment(args)
        recipe = recipe_of(experiment)
        steps = plan(experiment)
        read_published(experiment.out / FOLDER)  # the report reads them after the last step: errors show now
        chosen = steps if number is None else [numbered(steps, number)]
        tasks = tasks_left(experiment, steps) if show_only or number is None else {}
        if not show_only:
            claim(experiment.out, recipe)
    if number is not None and not show_only:
        preflight(experiment, chosen)
        run_step(steps, number)
        return
    print_plan(steps)
    if show_only:
        print_data(data_of(experiment, tasks), recipe)
    epochs: dict[str, float] = {}
    if estimate:
        workers = prepare_arguments(experiment, experiment.compressions[0], experiment.prepare).workers
        epochs = print_estimate(experiment, steps, tasks, workers)
    if not show_only:
        preflight(experiment, chosen)
        run_steps(steps, epochs)
        written = write_report(experiment.out / "report", experiment.results(), experiment.data_folders, recipe)
        print(f"== report: {written}")


def joined(argv: Sequence[str]) -> list[str]:
    """`--train X` as `--train=X`, and --prepare alike: argparse would take an X with one option for its own option."""
    found: list[str] = []
    for word in argv:
        if found and found[-1] in ("--train", "--prepare"):
            found[-1] += f"={word}"
        else:
            found.append(word)
    return found


def read_experiment(args: dict[str, Any]) -> Experiment:
    """The experiment that the options describe. UserError if --train is wrong."""
    models = {model: _settings(args["train"], model) for model in args["models"]}
    return Experiment(**{**args, "models": models, "compressions": list(dict.fromkeys(args["compressions"]))})


def _settings(for_train: Sequence[str], model: str) -> Settings:
    try:
        given, resume = config.parse(for_train)
        for name in [*given, *(["resume"] if resume else [])]:
            if name in REFUSED:
                raise UserError(f"takes no --{name.replace('_', '-')}: {REFUSED[name]}")
        return config.settle({**given, "model": model, "data": "data", "out": "out"})
    except UserError as error:
        raise UserError(f"--train {error}") from error


def prepare_arguments(experiment: Experiment, compression: str, more: Sequence[str]) -> Request:
    """prepare.py's arguments for a compression. UserError if --prepare is wrong."""
    folders = [str(experiment.source), str(experiment.data_folders[compression])]
    given = [*folders, "--compression", compression, "--profile", experiment.profile, *more]
    try:
        arguments = prepare.parse_arguments(given)
    except UserError as error:
        raise UserError(f"--prepare {error}") from error
    wanted = arguments.wanted
    found = wanted.compression, arguments.frames, arguments.shard, wanted.indices
    if found != (compression, experiment.profile, (1, 1), ()):
        raise UserError("--prepare takes no --compression, --profile, --frames, --shard or --index", exit_code=2)
    return arguments


def tasks_left(experiment: Experiment, steps: list[Step]) -> dict[str, list[Task]]:
    """The videos of each compression that is not prepared. UserError, before any work, if some are missing."""
    found = {}
    left = {step.name for step in steps if not step.done()}
    for compression in experiment.compressions:
        if f"prepare {compression}" in left:
            arguments = prepare_arguments(experiment, compression, experiment.prepare)
            found[compression], missing, _ = list_tasks(arguments)
            check_missing(missing, experiment.source, arguments.allow_missing)
            if not found[compression]:
                raise UserError(f"{experiment.source}: has no video in {compression}")
    return found


def data_of(experiment: Experiment, tasks: dict[str, list[Task]]) -> dict[str, Parts]:
    """What each compression has or will have to train and test on. No video is opened."""
    folders = experiment.data_folders
    return {name: planned(tasks[name]) if name in tasks else prepared(folder) for name, folder in folders.items()}


def recipe_of(experiment: Experiment) -> dict[str, Any]:
    """What decides the results, as far as it differs from the defaults; all runs in OUT share it.

    Later commands may add seeds, models and compressions, move the videos, and change what affects speed only.
    """
    settings = next(iter(experiment.models.values())).over(experiment.processes)
    free = (config.FREE_ON_RESUME - {"epochs"}) | REFUSED.keys()
    defaults = Settings(data="", out="")
    trained = {name: value for name, value in vars(settings).items() if value != getattr(defaults, name)}
    trained = {name: value for name, value in trained.items() if name not in free}
    if settings.encoder_weights and not is_timms(digest := digest_of(Path(settings.encoder_weights))):
        trained["encoder_weights"] = digest[:12]  # others than the paper's, by name or not
    first = experiment.compressions[0]
    usual, given = (_crop_options(prepare_arguments(experiment, first, more)) for more in ([], experiment.prepare))
    return {
        "profile": experiment.profile,
        "train": trained,
        "prepare": {name: value for name, value in given.items() if value != usual[name]},
        "processes": experiment.processes,
        "also_chosen_on_test": experiment.also_chosen_on_test,
    }


def _crop_options(arguments: Request) -> dict[str, Any]:
    """The options of prepare.py that change a crop, but for those that the plan sets."""
    wanted, boxes = arguments.wanted, arguments.boxes_file
    chosen = {"methods": wanted.methods, "splits": wanted.splits, "boxes": boxes and boxes.name}
    return {**chosen, **vars(arguments.crop)}


def claim(out: Path, recipe: dict[str, Any]) -> None:
    """Claim OUT for the recipe. UserError if it holds an experiment with another one."""
    file, asked = out / RECIPE, "also_chosen_on_test"
    if recipe[asked] and file.is_file() and not read_json(file).get(asked):
        raise UserError(
            f"--also-chosen-on-test: the trainings in {out} log no metrics of the test split; choose a new OUT"
        )
    claim_destination(out, RECIPE, recipe)


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error


def _parser() -> Parser:
    parser = Parser(description=__doc__)
    parser.add_argument("source", type=cli.path, metavar="FFPP", help="FaceForensics++'s folder, or forge.py's")
    parser.add_argument("out", type=cli.path, metavar="OUT", help="folder for crops, runs and the report")
    parser.add_argument(
        "--compressions", nargs="+", choices=COMPRESSIONS, default=["c23", "c40"], help="default: c23 c40"
    )
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS), help="default: all three")
    parser.add_argument("--seeds", type=positive_int, default=3, help="trainings of each model (default: %(default)s)")
    parser.add_argument("--profile", choices=list(PROFILES), default="recce", help="frames (default: %(default)s)")
    parser.add_argument("--train", type=_words, default=[], metavar="'ARGS'", help="more arguments for train.py")
    parser.add_argument("--prepare", type=_words, default=[], metavar="'ARGS'", help="more arguments for prepare.py")
    parser.add_argument("--cache", action="store_true", help="decode the crops once, for all trainings (cache.py)")
    parser.add_argument("--processes", type=positive_int, default=1, help="GPUs of one training (default: %(default)s)")
    parser.add_argument("--plan", action="store_true", help="print the steps, their time and space; run nothing")
    parser.add_argument("--no-estimate", dest="estimate", action="store_false", help="print the plan without timing")
    parser.add_argument("--step", type=positive_int, metavar="N", help="run only step N of the plan; no report")
    parser.add_argument(
        "--also-chosen-on-test",
        action="store_true",
        help="add a table, labelled so, of the best of all epochs by the test split, for ACC and AUC each, as RECCE's "
        "code chooses; needed from the first training on",
    )
    return parser


if __name__ == "__main__":
    cli.run(main)
