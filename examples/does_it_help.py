"""Does attention help, on your network and your images? Trains eight arms from the same starts, placebos included.

    python examples/does_it_help.py --network resnet18 --data FOLDER --out runs/trial --epochs 30 --seeds 10

FOLDER has a folder of images for each class, or such folders in train/ and, for the test, in test/. Without test/ a
share of each class is for the test. --data digits takes scikit-learn's digits instead. A network is a name of timm, or
module:function, which is called with the number of classes and returns an nn.Module (a module is looked for in this
folder and in the current one).

The arms: nothing; emam, scam, both, se and eca (timm's) after each stage; and two placebos, a constant gate and SE's
gate with frozen random weights. Every arm of a seed starts from the same weights and sees the same batches. What counts
as help is fixed before, in OUT/config.json. First a few steps of every arm are timed and the whole time is printed.
OUT gets a file for each finished training, so that after a stop the same command continues; at the end report.md,
table.csv, runs.csv and differences.png. docs/does_it_help.md says how to read them.
"""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import trial  # noqa: F401  isort: skip (first: it knows where the rest is, and ends Ctrl-C during imports in one line)

import torch
from tqdm import tqdm

import panet_layers
from deepfake.common import cli
from deepfake.common.cli import Parser, UserError, in_range, non_empty, positive_float, positive_int, reading_input
from deepfake.common.destination import check_destination, claim_destination
from deepfake.common.files import remove_partial_files, replacing
from deepfake.common.lock import locked
from deepfake.common.markdown import write_markdown
from deepfake.evaluating.plots import save_figure
from deepfake.reproducing.estimates import shown
from deepfake.training.distributed import pick_device
from deepfake.training.placing import use_threads
from panet_layers.insertion.share import STARTS
from trial import budget, outcome, runs
from trial.arms import ARMS, NOTHING
from trial.criterion import CRITERION
from trial.drawing import differences_figure
from trial.networks import Network, check_name
from trial.pictures import DIGITS, open_pictures
from trial.training import Recipe, Setup, train

CONFIG = "config.json"


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    args = _parser().parse_args(argv)
    use_threads(args.threads)
    with reading_input():
        check_destination(args.out, CONFIG)
        setup = _setup(args)
        config = _config(args, setup)
        every = runs.in_order(setup.arms, args.seeds)
        if args.estimate and not (args.out / CONFIG).is_file():  # writes nothing: the settings may change after it
            _announce(setup, budget.measured(setup, args.epochs, args.match), every, every)
            return
        claim_destination(args.out, CONFIG, config)
    with locked(args.out / ".lock", f"{args.out}: another process works there"):
        for folder in (args.out, args.out / runs.RUNS):
            remove_partial_files(folder)
        spent = budget.settle(args.out, setup, args.epochs, args.match)
        left = [run for run in every if not runs.is_done(args.out, run)]
        _announce(setup, spent, left, every)
        if args.estimate:
            return
        _train_all(setup, args.out, spent, left)
        _report(args.out, config, spent, runs.read_all(args.out, every))


def _setup(args: Any) -> Setup:
    """UserError if the data, the network, the device or the settings cannot be used together."""
    device = pick_device(args.device)
    arms = [arm for arm in ARMS if arm in {NOTHING, *args.arms}]
    if len(arms) < 2:
        raise UserError(f"--arms {NOTHING}: is compared with itself; name another arm")
    check_name(args.network, args.pretrained)
    data = Path(args.data).resolve()
    if args.data != DIGITS and data in (args.out.resolve(), *args.out.resolve().parents):
        raise UserError(f"--out {args.out}: is in --data {args.data}, where folders are classes; choose another", 2)
    pictures = open_pictures(args.data, args.image_size, args.test_share, args.split_seed, args.workers)
    images = len(pictures.train.labels)
    if args.batch_size > images:
        raise UserError(f"--batch-size {args.batch_size}: is more than the {images} images to train")
    at = args.at[0] if len(args.at) == 1 else args.at
    classes = len(pictures.classes)
    network = Network(args.network, args.pretrained, at, args.start, args.image_size, classes)
    network.check()
    return Setup(network, pictures, Recipe(args.batch_size, args.lr, args.weight_decay), arms, device)


def _config(args: Any, setup: Setup) -> dict[str, Any]:
    """What decides the results, the criterion included. Prints the images and where layers go, and tries every arm."""
    pictures = setup.pictures
    train_images, test_images = len(pictures.train.labels), len(pictures.test.labels)
    names = textwrap.shorten(", ".join(pictures.classes), 100, placeholder=" ...")
    print(f"{pictures.name}: {train_images} images to train, {test_images} to test, classes: {names}")
    one = budget.try_arms(setup)[setup.arms[1]]
    print(f"{args.network}: layers go here, as {ARMS[setup.arms[1]].title} shows:")
    print(one, flush=True)
    return {
        "network": args.network,
        "pretrained": args.pretrained,
        "start": args.start,
        "locations": [row.name for row in one.rows] if one else [],
        "data": pictures.name,
        "images": pictures.fingerprint(),
        "classes": pictures.classes,
        "train_images": train_images,
        "test_images": test_images,
        "most_common_class": round(100 * pictures.test.labels.bincount().max().item() / test_images, 2),
        "image_size": args.image_size,
        "arms": setup.arms,
        "seeds": args.seeds,
        "epochs": args.epochs,
        "match": args.match,
        **setup.recipe._asdict(),
        "criterion": CRITERION,
        "device": setup.device.type,
        "torch": torch.__version__,
        "panet_layers": panet_layers.__version__,
    }


def _announce(setup: Setup, spent: budget.Budget, left: Sequence[runs.Run], every: Sequence[runs.Run]) -> None:
    about = shown(spent.seconds(left))
    print(f"trainings to do: {len(left)} of {len(every)}, about {about} on {setup.device}", flush=True)


def _train_all(setup: Setup, out: Path, spent: budget.Budget, left: Sequence[runs.Run]) -> None:
    """Do the runs that are left, and store each when it is finished."""
    total, began = sum(spent.steps[arm] for arm, _ in left), time.monotonic()
    with tqdm(total=total, unit="step", dynamic_ncols=True, disable=not sys.stderr.isatty()) as bar:
        for number, (arm, seed) in enumerate(left, start=1):
            bar.set_description(f"{number} of {len(left)}: {ARMS[arm].title}, seed {seed}")
            found = train(setup, arm, seed, spent.steps[arm], bar.update)
            runs.store(out, (arm, seed), found)
            pace = (time.monotonic() - began) / spent.seconds(left[:number])  # above 1 if the machine has become slower
            after = shown(pace * spent.seconds(left[number:]))
            line = f"{number} of {len(left)}: seed {seed}, {ARMS[arm].title}: {found['accuracy']:.2f} %, "
            tqdm.write(f"{line}{found['seconds']:.0f} s; about {after} left", file=sys.stdout)
            sys.stdout.flush()


def _report(out: Path, config: dict[str, Any], spent: budget.Budget, found: list[dict[str, Any]]) -> None:
    """Write the files of the result, and print the report."""
    judged = outcome.judged(found)
    text = outcome.report(config, spent, found)
    for name, content in (("runs.csv", outcome.runs_csv(found)), ("table.csv", outcome.table_csv(judged))):
        with replacing(out / name) as file:
            file.write(content)
    title = f"{config['network']} on {config['data']}, {config['seeds']} seeds"
    save_figure(differences_figure(judged, title), out / "differences.png")
    write_markdown(out / "report.md", text)
    print(f"\n{text}\nwrote report.md, table.csv, runs.csv and differences.png to {out}")


def _parser() -> Parser:
    parser = Parser(description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--network", type=non_empty, required=True, metavar="NAME|MODULE:FUNCTION", help="what to train")
    add("--data", type=non_empty, required=True, metavar="FOLDER|digits", help="images to train and test on")
    add("--out", type=cli.path, required=True, help="folder for the trainings and the results")
    add("--seeds", type=in_range(int, 2, 1000), default=10, help="trainings of each arm (default: 10)")
    add("--epochs", type=positive_int, default=30, help="budget of the network without layers (default: 30)")
    add("--match", choices=tuple(budget.ROUNDS), default="epochs", help="what arms have in common (default: epochs)")
    add("--arms", choices=tuple(ARMS), nargs="+", default=list(ARMS), help="nothing is always one (default: all)")
    add("--at", type=non_empty, nargs="+", default=["stages"], help="where layers go: names or patterns of modules, or "
        "stages, which timm's networks have (default: stages)")  # fmt: skip
    add("--start", choices=STARTS, default=STARTS[0], help="as in insert_attention (default: identity)")
    add("--pretrained", action="store_true", help="start from timm's weights, which are downloaded once")
    add("--image-size", type=positive_int, default=64, metavar="PIXELS", help="images are resized to it (default: 64)")
    add("--batch-size", type=positive_int, default=32, help="default: 32")
    add("--lr", type=positive_float, default=1e-3, help="Adam's first learning rate (default: 0.001)")
    add("--weight-decay", type=cli.non_negative_float, default=0.0, help="not of biases, norms and s (default: 0)")
    add("--test-share", type=in_range(float, 0.01, 0.99), default=0.2, metavar="SHARE",
        help="of each class, where there is no test/ (default: 0.2)")  # fmt: skip
    add("--split-seed", type=cli.non_negative_int, default=0, help="draws this share (default: 0)")
    add("--device", default="auto", help="cpu, cuda, cuda:1, ...; auto: a GPU if there is one (default: auto)")
    add("--workers", type=cli.non_negative_int, help="processes that read images (default: one for each core, at "
        "most 4; none for few images)")  # fmt: skip
    add("--threads", type=positive_int, help="CPU threads (default: OMP_NUM_THREADS, or one for each core)")
    add("--estimate", action="store_true", help="print the time that it takes, and end")
    return parser


if __name__ == "__main__":
    cli.run(main)
