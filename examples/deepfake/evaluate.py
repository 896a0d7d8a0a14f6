"""Evaluate a trained detector on one split: metrics.json, scores.csv, roc.png, scores.png and grid.png.

    python examples/deepfake/evaluate.py runs/demo --data demo

metrics.json holds {"frame": {"acc", "balanced_acc", "auc", "ap", "eer", "n_real", "n_fake", "ci95"}, "video": {the
same}, "methods": {each method: the same two, its fakes against all reals}}, where `ci95` has a 95 % interval of each
figure (bootstrap.py). Beside them is what was evaluated (`run`, `model`, `checkpoint_epoch`, `data`, `description`,
`fingerprint`, `split`, `image_size`) and two yardsticks: `always_fake_acc`, the accuracy of answering "fake" to
everything, and `trivial_baseline_auc`, what a logistic regression on trivial cues (spectrum, colours, noise, file size)
reaches (null where the data have no training split). All metrics are fractions. A video's score is the mean of its
frames' probabilities.

--robustness adds robustness.json and .png (robustness.py), --calibration calibration.json and .png (calibration.py).
With several RUNs or several folders after --data, each is evaluated on each, and cross.json, .md and .png show all of
them, method by method (cross.py).
"""

from __future__ import annotations

import argparse
import csv
import functools
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from deepfake.common import cli
from deepfake.common.cli import Parser, UserError, non_negative_int, reading_input
from deepfake.common.files import make_folder, replacing, write_json
from deepfake.dataset.images import SPLITS, Images, open_split, to_unit_range
from deepfake.evaluating import calibration, cross_tables, plots, robustness
from deepfake.evaluating.bootstrap import RESAMPLES, evaluate_with_intervals
from deepfake.evaluating.metrics import THRESHOLD, video_scores
from deepfake.evaluating.scoring import add_compute_options, add_workers_option, score_logits, to_probabilities
from deepfake.evaluating.summary_table import report, title_of
from deepfake.evaluating.trivial_cues import trivial_baseline_auc
from deepfake.training.checkpoint import load_run
from deepfake.training.distributed import pick_device
from panet_layers.models import PANet

PER_CLASS = 4  # columns of the grid for each class, up to half of them wrong answers
SEED = 0  # of the choice of those columns

ABOUT = ("run", "model", "checkpoint_epoch", "data", "fingerprint", "split", "image_size")  # in every result's JSON


@dataclass(frozen=True)
class Options:
    """How to evaluate: what changes speed and rounding only, the bootstrap, and what to do beyond the metrics."""

    batch_size: int = 32
    device: torch.device | None = None
    amp: str = "none"
    workers: int | None = None
    resamples: int = RESAMPLES
    seed: int = 0
    robustness: bool = False
    calibration: bool = False


class Evaluation(NamedTuple):
    """Where the results are and what metrics.json holds."""

    out: Path
    metrics: dict[str, Any]


def main(argv: list[str] | None = None) -> None:
    """The command."""
    args = _parser().parse_args(argv)
    if args.calibration and args.split == "val":
        raise UserError("--calibration: the temperature is fitted on val (wanted another --split to try it on)", 2)
    options = Options(
        batch_size=args.batch_size,
        device=pick_device(args.device),
        amp=args.amp,
        workers=args.workers,
        resamples=args.resamples,
        seed=args.seed,
        robustness=args.robustness,
        calibration=args.calibration,
    )
    if len(args.run) == len(args.data) == 1:
        _evaluate(args.run[0], args.data[0], args.split, args.out, options)
    else:
        _evaluate_each(args.run, args.data, args.split, args.out, options)


def evaluate(run: Path, data: str, split: str = "test", out: Path | None = None, **options: Any) -> Evaluation:
    """Score a split with the best weights of `run`, print the table and write the results to `out`.

    `out` is RUN/DATA-SPLIT where none is given; `options` are those of `Options`. Raises UserError on anything wrong
    with the run, the data or `out`.
    """
    return _evaluate(run, data, split, out, Options(**options))


def _evaluate(run: Path, data: str, split: str, out: Path | None, options: Options) -> Evaluation:
    device = options.device or pick_device("auto")
    with reading_input():
        model, config = load_run(run, device)
        images = open_split(data, split, config["image_size"])
        val = open_split(data, "val", config["image_size"]) if options.calibration else None
    out = make_folder(out or run / f"{name_of(data)}-{split}")

    def score(these: Images) -> NDArray[np.float64]:
        return score_logits(model, these, device, options.batch_size, options.amp, options.workers)

    def judge(probabilities: NDArray[np.float64]) -> dict[str, dict[str, Any]]:
        return evaluate_with_intervals(images.videos, images.labels, probabilities, options.resamples, options.seed)

    logits = score(images)
    scores = to_probabilities(logits)
    metrics = _summary(run, data, split, images, config)
    metrics |= judge(scores)
    metrics["methods"] = _by_method(images, scores, options)
    if options.resamples:
        metrics["bootstrap"] = {"resamples": options.resamples, "seed": options.seed, "by": "video"}
    print(report(metrics, set(images.methods)))

    _write_pictures(out, model, images, scores, metrics)
    _write_scores(out / "scores.csv", images, scores)
    write_json(out / "metrics.json", metrics)
    print(f"wrote metrics.json, scores.csv, roc.png, scores.png and grid.png to {out}")
    about = {name: metrics[name] for name in ABOUT}
    if val is not None:
        result = calibration.calibrate((val.labels, score(val)), (images.labels, logits), images.videos)
        _write_extra(out, "calibration", about | result, calibration.reliability_figure, metrics)
        print(calibration.summary(result))
    if options.robustness:
        found = robustness.curves(images, lambda these: to_probabilities(score(these)), judge)
        result = {"clean": {name: metrics[name] for name in ("frame", "video")}, **found}
        _write_extra(out, "robustness", about | result, robustness.robustness_figure, metrics)
    return Evaluation(out, metrics)


def _evaluate_each(runs: list[Path], data: list[str], split: str, out: Path | None, options: Options) -> None:
    """Each run on each data set, every result in a folder of its own, and the tables that show them together."""
    run_names = _distinct([name_of(run) for run in runs], "RUN")
    _distinct([name_of(name) for name in data], "--data")
    if out is None and len(runs) > 1:
        raise UserError("several RUNs need --out, the folder for their tables", 2)
    for run in runs:  # all of them and all data first: what is wrong with the last is known before hours of scoring
        with reading_input():
            image_size = load_run(run)[1]["image_size"]
            for name in data:
                for needed in (split, "val") if options.calibration else (split,):
                    open_split(name, needed, image_size)

    found: list[dict[str, Any]] = []
    for run, run_name in zip(runs, run_names, strict=True):
        for name in data:
            place = None if out is None else out / run_name / f"{name_of(name)}-{split}"
            metrics = _evaluate(run, name, split, place, options).metrics
            found += cross_tables.cells(run_name, metrics)
            print()
    folder = make_folder(out or runs[0] / f"cross-{split}")
    cross_tables.write(folder, found, split)
    print(f"wrote cross.json, cross.md and cross.png to {folder}")


def _distinct(names: list[str], what: str) -> list[str]:
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{what}: two folders are called {name!r} (wanted a name for each)", 2)
    return names


def name_of(data: str | Path) -> str:
    """The last part of a folder's path, "demo" for the demo."""
    return Path(data).resolve().name


def _by_method(images: Images, scores: NDArray[np.float64], options: Options) -> dict[str, Any]:
    """Each method's fakes against all reals."""
    methods = np.array(images.methods)
    found = {}
    for method in sorted(set(images.methods) - {"real"}):
        mine = np.flatnonzero((methods == method) | (images.labels == 0))
        videos = [images.videos[index] for index in mine]
        levels = evaluate_with_intervals(videos, images.labels[mine], scores[mine], options.resamples, options.seed)
        found[method] = levels
    return found


def _write_extra(out: Path, name: str, result: dict[str, Any], figure: Any, metrics: dict[str, Any]) -> None:
    plots.save_figure(figure(result, title_of(metrics)), out / f"{name}.png")
    write_json(out / f"{name}.json", result)
    print(f"wrote {name}.json and {name}.png to {out}")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "run", type=cli.path, nargs="+", metavar="RUN", help="run folder of train.py, or one of save_pretrained"
    )
    parser.add_argument(
        "--data",
        type=cli.non_empty,
        nargs="+",
        required=True,
        metavar="demo|FOLDER",
        help='"demo" or a folder of prepared images',
    )
    parser.add_argument("--split", choices=SPLITS, default="test", help="which split to score (default: test)")
    parser.add_argument("--out", type=cli.path, help="folder for the results (default: RUN/DATA-SPLIT)")
    parser.add_argument("--robustness", action="store_true", help="score again under 5 degradations, 5 strengths each")
    parser.add_argument("--calibration", action="store_true", help="ECE, and a temperature fitted on the val split")
    parser.add_argument(
        "--resamples",
        type=non_negative_int,
        default=RESAMPLES,
        help="of the videos, for the 95 %% intervals (default: %(default)s; 0: none)",
    )
    parser.add_argument("--seed", type=non_negative_int, default=0, help="of the resamples (default: %(default)s)")
    add_compute_options(parser)
    add_workers_option(parser)
    return parser


def _summary(run: Path, data: str, split: str, images: Images, config: dict[str, Any]) -> dict[str, Any]:
    trained = config.get("data") or {}  # what train.py wrote; unknown of a model of save_pretrained
    return {
        "run": str(run),
        "model": model_name(config["model"]),
        "checkpoint_epoch": config.get("best", {}).get("epoch"),
        "data": data,
        "description": images.description,
        "fingerprint": images.fingerprint,
        "split": split,
        "image_size": config["image_size"],
        "trained_on": {"fingerprint": trained.get("fingerprint"), "methods": trained.get("methods")},
        "trivial_baseline_auc": _baseline(data, split, images.image_size, images.fingerprint),
        "always_fake_acc": float(images.labels.mean()),
    }


def model_name(arguments: dict[str, Any]) -> str:
    """What a model's constructor arguments make, as the paper's Table I calls it: "PANet tiny", "RECCE paper", ..."""
    variant = arguments.get("variant", "paper")
    if arguments.get("architecture") == "xception":
        return f"Xception {variant}"
    attention = arguments.get("emam", "common") or arguments.get("scam", "final")
    return f"{'PANet' if attention else 'RECCE'} {variant}"


@functools.lru_cache
def _baseline(data: str, split: str, image_size: int, fingerprint: str) -> float | None:
    """None, and a line that says why, where the training split can't be read: the scores are worth having without.

    Worked out once for several runs; by the fingerprint, so that changed data are worked out anew.
    """
    try:
        train, test = (open_split(data, name, image_size) for name in ("train", split))
        return trivial_baseline_auc(train, test)
    except UserError as error:
        print(f"no trivial baseline: {error}")
        return None


def _write_pictures(
    out: Path, model: nn.Module, images: Images, scores: NDArray[np.float64], metrics: dict[str, Any]
) -> None:
    title = title_of(metrics)
    if metrics["data"] == "demo":
        title += ": a demonstration on drawn faces, not FaceForensics++"
    videos = video_scores(images.videos, images.labels, scores)
    baseline = metrics["trivial_baseline_auc"]
    plots.save_figure(plots.roc_figure(images.labels, scores, videos, baseline, title), out / "roc.png")
    plots.save_figure(plots.score_figure(images.labels, scores, title), out / "scores.png")
    chosen = choose_examples(images.labels, scores)
    plots.save_figure(plots.grid_figure(explain(model, images, scores, chosen), title), out / "grid.png")


def choose_examples(labels: NDArray[np.int64], scores: NDArray[np.float64]) -> list[int]:
    """Images for the grid, at random: reals, then fakes; in each class right answers, then up to half wrong ones."""
    generator = np.random.default_rng(SEED)
    wrong = (scores >= THRESHOLD) != labels
    chosen: list[int] = []
    for label in (0, 1):
        order = generator.permutation(np.flatnonzero(labels == label))
        mistakes = order[wrong[order]]
        right = order[~wrong[order]][: max(PER_CLASS // 2, PER_CLASS - len(mistakes))]
        chosen += [int(i) for i in (*right, *mistakes[: PER_CLASS - len(right)])]
    return chosen


@torch.inference_mode()
def explain(model: nn.Module, images: Images, scores: NDArray[np.float64], chosen: list[int]) -> list[plots.Example]:
    """The grid's columns; the plain classifier has no reconstruction and no attention map."""
    pixels = torch.stack([images[i][0] for i in chosen])
    batch = to_unit_range(pixels).to(next(model.parameters()).device)
    reconstruction = model(batch).reconstruction
    shown = pixels.permute(0, 2, 3, 1).numpy().astype(np.float32) / 255
    columns = [plots.Example(shown[k], int(images.labels[i]), float(scores[i])) for k, i in enumerate(chosen)]
    if reconstruction is None:
        return columns
    assert isinstance(model, PANet)
    coarse = model.attention_map(batch, reconstruction).float()
    attention = F.interpolate(coarse, pixels.shape[2:], mode="bilinear")[:, 0].cpu().numpy()
    rebuilt = (reconstruction.float().permute(0, 2, 3, 1).cpu().numpy() + 1) / 2
    return [c._replace(reconstruction=rebuilt[k], attention=attention[k]) for k, c in enumerate(columns)]


def _write_scores(path: Path, images: Images, scores: NDArray[np.float64]) -> None:
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["name", "video", "method", "label", "fake_probability", "prediction"])
    for row in zip(images.names, images.videos, images.methods, images.labels, scores, strict=True):
        writer.writerow([*row[:3], row[3], float(row[4]), "fake" if row[4] >= THRESHOLD else "real"])
    with replacing(path) as file:
        file.write(table.getvalue().encode(errors="surrogateescape"))


if __name__ == "__main__":
    cli.run(main)
