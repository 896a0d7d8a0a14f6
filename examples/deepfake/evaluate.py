"""Evaluate a trained detector on one split: metrics.json, scores.csv, roc.png, scores.png and grid.png.

    python examples/deepfake/evaluate.py runs/demo --data demo

metrics.json has `frame` and `video`, each with {"acc", "balanced_acc", "auc", "ap", "eer", "n_real", "n_fake", "ci95"},
and `methods`: for each method, the same two, of its fakes against all reals. `ci95` is a 95 % interval of each figure
(evaluating/bootstrap.py). The file also says what was evaluated (`run`, `model`, `checkpoint_epoch`, `data`,
`description`, `fingerprint`, `split`, `image_size`) and has two baselines: `always_fake_acc`, the accuracy of calling
everything fake, and `trivial_baseline_auc`, the AUC of a logistic regression on trivial cues (spectrum, colours, noise,
file size; null if the data have no training split). All metrics are fractions. A video's score is the mean of its
frames' probabilities.

By image, `at_threshold` has {"acc", "balanced_acc", "fpr", "ci95"} at "0.5" and "from_val", at `threshold_from_val`:
the threshold with the highest balanced accuracy on the val split of the same data. `fpr` is the share of the real
images called fake. `lightness` has {"n_real", "n_fake", "n_videos", "auc", "ci95", "at_threshold"} of the "darker" and
of the "lighter" faces (evaluating/lightness.py); it is null if no image is known to be cut around a face's box. A
figure is null if a class that it needs is missing; its interval also if that class has one video only.

--recce-weights FILE and --xception-weights FILE evaluate weights that others have published, without a RUN: RECCE's own
checkpoints and DeepfakeBench's, at the size and with the resizing of that code (training/published.py). Such weights
tell a wrong preparation of the crops from a wrong training. `weights` in metrics.json says which they were;
reproduce.py's report begins with the results in OUT/published/.

--robustness writes robustness.json and .png (evaluating/robustness.py), --calibration calibration.json and .png
(evaluating/calibration.py). With several RUNs, or several folders after --data, each run is evaluated on each folder;
cross.json, .md and .png then show all results, method by method (evaluating/cross_tables.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import deepfake  # noqa: F401  # isort: skip (first: Ctrl-C during the imports below then ends in one line)

import cv2

from deepfake.common import cli
from deepfake.common.cli import Parser, UserError, non_negative_int, reading_input
from deepfake.common.files import make_folder
from deepfake.data import open_split
from deepfake.dataset.images import Images
from deepfake.dataset.manifest import SPLITS
from deepfake.dataset.resizing import Resize, square
from deepfake.evaluating import cross_tables
from deepfake.evaluating.bootstrap import RESAMPLES, SEED
from deepfake.evaluating.evaluation import Options, optional_val, results_folder, write_results
from deepfake.evaluating.scoring import add_amp_option, add_compute_options, add_workers_option
from deepfake.evaluating.summary_table import model_name, name_of
from deepfake.training.checkpoint import load_run
from deepfake.training.distributed import pick_device
from deepfake.training.published import load_published
from panet_layers.models import fold_batch_norm

PUBLISHED = {"recce": "RECCE", "xception": "Xception"}
"""The networks whose published weights can be evaluated, and their names in the paper's Table I."""


def main(argv: list[str] | None = None) -> None:
    """The command."""
    args = vars(_parser().parse_args(argv))
    runs, data, split, out = (args.pop(name) for name in ("run", "data", "split", "out"))
    files = {network: args.pop(f"{network}_weights") for network in PUBLISHED}
    if args["calibration"] and split == "val":
        raise UserError("--calibration fits its temperature on val: choose another --split to apply it to", 2)
    options = Options(**{**args, "device": pick_device(args["device"])})
    network = next((network for network, file in files.items() if file is not None), None)
    if network is not None:
        if runs or len(data) > 1 or out is None:
            raise UserError(f"--{network}-weights takes no RUN, one folder after --data, and needs --out", 2)
        evaluate_published(files[network], network, data[0], split, out, options)
    elif not runs:
        raise UserError(f"give a RUN, or {' or '.join(f'--{network}-weights' for network in PUBLISHED)} FILE", 2)
    elif len(runs) == len(data) == 1:
        evaluate(runs[0], data[0], split, out, options)
    else:
        evaluate_each(runs, data, split, out, options)


def evaluate(run: Path, data: str, split: str, out: Path | None, options: Options) -> dict[str, Any]:
    """Evaluate one run on one split; returns what metrics.json holds. `out` defaults to RUN/DATA-SPLIT."""
    with reading_input():
        model, config = load_run(run, options.device)
        model = fold_batch_norm(model)
        images = open_split(data, split, config["image_size"])
        val = _open_val(data, split, options, config["image_size"])
    trained = config.get("data") or {}  # written by train.py; save_pretrained writes none
    about = {
        "run": str(run),
        "model": model_name(config["model"]),
        "checkpoint_epoch": config.get("best", {}).get("epoch"),
        **_about(data, split, images),
        "trained_on": {"fingerprint": trained.get("fingerprint"), "methods": trained.get("methods")},
    }
    return write_results(model, about, images, val, make_folder(out or results_folder(run, data, split)), options)


def evaluate_published(file: Path, network: str, data: str, split: str, out: Path, options: Options) -> dict[str, Any]:
    """Evaluate published weights of "recce" or "xception" on one split; returns what metrics.json holds."""
    cv2.setNumThreads(1)  # OpenCV's threads do not survive the fork of the processes that read images
    with reading_input():
        model, code, weights = load_published(file, network, options.device)
        images = open_split(data, split, code.image_size, resize=code.resize)
        val = _open_val(data, split, options, code.image_size, code.resize)
    about = {
        "run": str(file),
        "model": f"{PUBLISHED[network]}, published weights",
        "checkpoint_epoch": None,
        **_about(data, split, images),
        "trained_on": {"fingerprint": None, "methods": None},
        "weights": weights,
    }
    print(f"{file}: in the layout of {code.name}, so {code.image_size} x {code.image_size}; sha256 {weights['sha256']}")
    return write_results(model, about, images, val, make_folder(out), options)


def _about(data: str, split: str, images: Images) -> dict[str, Any]:
    """What metrics.json says of the images."""
    return {
        "data": data,
        "description": images.description,
        "fingerprint": images.fingerprint,
        "split": split,
        "image_size": images.image_size,
    }


def _open_val(data: str, split: str, options: Options, image_size: int, resize: Resize = square) -> Images | None:
    """The val split of the same data; None, and a line that says why, if no threshold can be fitted on it."""
    if split == "val":
        print("no threshold from val: val itself is evaluated")
        return None
    with optional_val(options):
        return open_split(data, "val", image_size, resize=resize)
    return None


def evaluate_each(runs: list[Path], data: list[str], split: str, out: Path | None, options: Options) -> None:
    """Evaluate each run on each data set, every result in its own folder, and write the tables of all results."""
    run_names = _distinct([name_of(run) for run in runs], "RUN")
    _distinct([name_of(name) for name in data], "--data")
    if out is None and len(runs) > 1:
        raise UserError("several RUNs need --out, the folder for their tables", 2)
    for run in runs:  # open everything first: an error in the last run must not show after hours of scoring
        with reading_input():
            image_size = load_run(run)[1]["image_size"]
            for name in data:
                for needed in (split, "val") if options.calibration else (split,):
                    open_split(name, needed, image_size)

    cells: list[dict[str, Any]] = []
    for run, run_name in zip(runs, run_names, strict=True):
        for name in data:
            folder = None if out is None else out / run_name / f"{name_of(name)}-{split}"
            cells += cross_tables.cells(run_name, evaluate(run, name, split, folder, options))
            print()
    folder = make_folder(out or runs[0] / f"cross-{split}")
    cross_tables.write(folder, cells, split)
    print(f"wrote cross.json, cross.md and cross.png to {folder}")


def _distinct(names: list[str], what: str) -> list[str]:
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{what}: two folders are called {name!r}; rename one, since results are listed by name", 2)
    return names


def _parser() -> Parser:
    parser = Parser(description=__doc__)
    parser.add_argument(
        "run", type=cli.path, nargs="*", metavar="RUN", help="run folder of train.py, or one of save_pretrained"
    )
    published = parser.add_mutually_exclusive_group()
    for network, name in PUBLISHED.items():
        published.add_argument(
            f"--{network}-weights",
            type=cli.path,
            metavar="FILE",
            help=f"instead of RUN: {name}'s published checkpoint; needs --out",
        )
    parser.add_argument(
        "--data",
        type=cli.non_empty,
        nargs="+",
        required=True,
        metavar="demo|FOLDER",
        help='"demo" or a folder of prepared images',
    )
    parser.add_argument("--split", choices=SPLITS, default="test", help="which split to score (default: %(default)s)")
    parser.add_argument("--out", type=cli.path, help="folder for the results (default: RUN/DATA-SPLIT)")
    parser.add_argument("--robustness", action="store_true", help="score again under 5 degradations, 5 strengths each")
    parser.add_argument("--calibration", action="store_true", help="ECE, and a temperature fitted on the val split")
    parser.add_argument(
        "--resamples",
        type=non_negative_int,
        default=RESAMPLES,
        help="bootstrap resamples of the videos, for the 95 %% intervals (default: %(default)s; 0: no intervals)",
    )
    parser.add_argument("--seed", type=non_negative_int, default=SEED, help="of the resamples (default: %(default)s)")
    add_compute_options(parser)
    add_amp_option(parser)
    add_workers_option(parser)
    return parser


if __name__ == "__main__":
    cli.run(main)
