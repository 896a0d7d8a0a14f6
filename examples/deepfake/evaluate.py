"""Evaluate a trained detector on one split: metrics.json, scores.csv, roc.png, scores.png and grid.png.

    python examples/deepfake/evaluate.py runs/demo --data demo

metrics.json holds {"frame": {"acc", "balanced_acc", "auc", "ap", "eer", "n_real", "n_fake"}, "video": {the same}}, and
beside them what was evaluated (`run`, `model`, `checkpoint_epoch`, `data`, `description`, `fingerprint`, `split`,
`image_size`) and two yardsticks: `always_fake_acc`, the accuracy of answering "fake" to everything, and
`trivial_baseline_auc`, what a logistic regression on trivial cues (spectrum, colours, noise, file size) reaches (null
where the data have no training split). All metrics are fractions. A video's score is the mean of its frames'
probabilities.
"""

from __future__ import annotations

import argparse
import csv
import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

import cli
import plots
from checkpoint import load_run
from cli import Parser, UserError
from cues import trivial_baseline_auc
from data import SPLITS, Images, open_split, to_unit_range
from distributed import pick_device
from files import make_folder, replacing, write_json
from metrics import THRESHOLD, evaluate_scores, video_scores
from panet_layers.models import PANet
from scoring import add_compute_options, add_workers_option, score_images

PER_CLASS = 4  # columns of the grid for each class, up to half of them wrong answers
SEED = 0  # of the choice of those columns

PAPER_TABLE_1 = (  # method, ACC and AUC in % on FaceForensics++: HQ (c23), then LQ (c40)
    ("Xception", 95.73, 96.30, 86.86, 89.30),
    ("RECCE", 97.06, 99.32, 91.03, 95.02),
    ("PANet", 97.26, 99.37, 91.37, 94.90),
)
FFPP_METHODS = {"real", "Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures"}


class Evaluation(NamedTuple):
    """Where the results are and what metrics.json holds."""

    out: Path
    metrics: dict[str, Any]


def main(argv: list[str] | None = None) -> None:
    """The command."""
    args = _parser().parse_args(argv)
    evaluate(
        args.run,
        args.data,
        args.split,
        args.out,
        batch_size=args.batch_size,
        device=pick_device(args.device),
        amp=args.amp,
        workers=args.workers,
    )


def evaluate(
    run: Path,
    data: str,
    split: str = "test",
    out: Path | None = None,
    *,
    batch_size: int = 32,
    device: torch.device | None = None,
    amp: str = "none",
    workers: int | None = None,
) -> Evaluation:
    """Score a split with the best weights of `run`, print the table and write the results to `out`.

    `out` is RUN/DATA-SPLIT where none is given. Raises UserError on anything wrong with the run, the data or `out`.
    """
    device = device or pick_device("auto")
    model, config = load_run(run, device)
    images = open_split(data, split, config["image_size"])
    out = make_folder(out or run / f"{Path(data).resolve().name}-{split}")

    scores = score_images(model, images, device, batch_size, amp, workers)
    metrics = _summary(run, data, split, images, config)
    metrics |= evaluate_scores(images.videos, images.labels, scores)
    print(report(metrics, set(images.methods)))

    _write_pictures(out, model, images, scores, metrics)
    _write_scores(out / "scores.csv", images, scores)
    write_json(out / "metrics.json", metrics)
    print(f"wrote metrics.json, scores.csv, roc.png, scores.png and grid.png to {out}")
    return Evaluation(out, metrics)


def report(metrics: dict[str, Any], methods: set[str]) -> str:
    """The table: this run's figures in %, the yardsticks, and the paper's Table I with what it may be compared to."""
    columns = "{:<28}{:>8}{:>9}{:>8}{:>8}{:>8}{:>7}{:>7}"
    epoch = metrics["checkpoint_epoch"]
    lines = [_title(metrics) + (f", weights of epoch {epoch}" if epoch else ""), metrics["description"], ""]
    lines.append(columns.format("in %", "ACC", "bal.ACC", "AUC", "AP", "EER", "real", "fake"))
    for name, m in (("this run, by frame", metrics["frame"]), ("this run, by video", metrics["video"])):
        shares = [f"{100 * m[key]:.2f}" for key in ("acc", "balanced_acc", "auc", "ap", "eer")]
        lines.append(columns.format(name, *shares, m["n_real"], m["n_fake"]))
    auc = metrics["trivial_baseline_auc"]
    trivial = "no training split" if auc is None else f"{100 * auc:.2f}"
    lines.append(columns.format("trivial cues alone", "-", "-", trivial, "-", "-", "", "").rstrip())
    always = f"{100 * metrics['always_fake_acc']:.2f}"
    lines.append(columns.format('always answering "fake"', always, "50.00", "50.00", "-", "50.00", "", "").rstrip())

    lines += ["", "The paper's Table I, FaceForensics++ (FF++), in %:"]
    lines.append("{:<28}{:>8}{:>8}{:>10}{:>8}".format("", "HQ ACC", "AUC", "LQ ACC", "AUC"))
    lines += ["{:<28}{:>8.2f}{:>8.2f}{:>10.2f}{:>8.2f}".format(*row) for row in PAPER_TABLE_1]
    lines.append(_comparability(metrics, methods))
    return "\n".join(lines)


def _comparability(metrics: dict[str, Any], methods: set[str]) -> str:
    """The honest sentence under the paper's rows."""
    if metrics["data"] == "demo":
        return "!! DEMONSTRATION on drawn faces, NOT FF++: these figures are no result and compare with no row above !!"
    video = metrics["video"]
    counts = (video["n_real"], video["n_fake"])
    if metrics["split"] != "test" or methods != FFPP_METHODS or counts != (140, 560):
        return (
            "These data are NOT FF++'s test split (140 real videos, 560 fakes by its four methods): "
            "this run's figures do not compare with the paper's rows."
        )
    return (
        "The counts and methods are those of FF++'s test split. Mind that the preparation of the crops alone moves ACC "
        "by several points, more than the rows above differ."
    )


def _parser() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=cli.path, metavar="RUN", help="run folder of train.py, or one of save_pretrained")
    parser.add_argument("--data", type=cli.non_empty, required=True, help='"demo" or a folder of prepared images')
    parser.add_argument("--split", choices=SPLITS, default="test", help="which split to score (default: test)")
    parser.add_argument("--out", type=cli.path, help="folder for the results (default: RUN/DATA-SPLIT)")
    add_compute_options(parser)
    add_workers_option(parser)
    return parser


def _summary(run: Path, data: str, split: str, images: Images, config: dict[str, Any]) -> dict[str, Any]:
    return {
        "run": str(run),
        "model": model_name(config["model"]),
        "checkpoint_epoch": config.get("best", {}).get("epoch"),
        "data": data,
        "description": images.description,
        "fingerprint": images.fingerprint,
        "split": split,
        "image_size": config["image_size"],
        "trivial_baseline_auc": _baseline(data, images),
        "always_fake_acc": float(images.labels.mean()),
    }


def model_name(arguments: dict[str, Any]) -> str:
    """What a model's constructor arguments make, as the paper's Table I calls it: "PANet tiny", "RECCE paper", ..."""
    variant = arguments.get("variant", "paper")
    if arguments.get("architecture") == "xception":
        return f"Xception {variant}"
    attention = arguments.get("emam", "common") or arguments.get("scam", "final")
    return f"{'PANet' if attention else 'RECCE'} {variant}"


def _baseline(data: str, images: Images) -> float | None:
    """None, and a line that says why, where the training split can't be read: the scores are worth having without."""
    try:
        return trivial_baseline_auc(open_split(data, "train", images.image_size), images)
    except UserError as error:
        print(f"no trivial baseline: {error}")
        return None


def _title(metrics: dict[str, Any]) -> str:
    return f"{metrics['model']} on {Path(metrics['data']).resolve().name} ({metrics['split']})"


def _write_pictures(
    out: Path, model: nn.Module, images: Images, scores: NDArray[np.float64], metrics: dict[str, Any]
) -> None:
    title = _title(metrics)
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
