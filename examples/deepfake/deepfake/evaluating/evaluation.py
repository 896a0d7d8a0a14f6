"""One evaluation: scores a split with a detector, and writes metrics.json, scores.csv and the pictures."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import nn

from ..common.cli import UserError
from ..common.files import replacing, short_name, write_json
from ..common.texts import read_json
from ..dataset.images import Images
from ..demo.options import is_demo
from ..demo.people import ATTRIBUTION, write_licence
from . import calibration, plots, robustness
from .bootstrap import evaluate_with_intervals
from .lightness import figures_by_lightness, lightness_of
from .metrics import verdict, video_scores
from .picture_grids import grid_examples, grid_figure
from .scoring import score_logits, to_probabilities
from .summary_table import name_of, report, title_of
from .thresholds import at_thresholds, fit_threshold
from .trivial_cues import baseline_of

METRICS_FILE, SCORES_FILE = "metrics.json", "scores.csv"
ABOUT = ("run", "model", "checkpoint_epoch", "data", "fingerprint", "split", "image_size")
"""What each JSON file of an evaluation says of its origin."""


@dataclass(frozen=True)
class Options:
    """How to evaluate; evaluate.py has the defaults."""

    device: torch.device
    batch_size: int
    amp: str
    workers: int | None
    resamples: int
    seed: int
    robustness: bool
    calibration: bool


def results_folder(run: Path, data: str | Path, split: str = "test") -> Path:
    """Where evaluate.py writes the results of a run on a split, unless --out says otherwise: RUN/DATA-SPLIT.

    Where another folder of that name has its results there, more of DATA's path: a-crops-test, b-crops-test.
    """
    names = [name_of(data)]
    if not (isinstance(data, str) and is_demo(data)):
        parts = Path(data).resolve().parts[1:]
        names += ["-".join(parts[-count:]) for count in range(2, len(parts) + 1)]
    for name in names:
        folder = run / short_name(f"{name}-{split}")
        if not _holds_others(folder / METRICS_FILE, data):
            return folder
    raise UserError(f"{folder}: holds the results of other data; choose another folder with --out", 2)


def _holds_others(file: Path, data: str | Path) -> bool:
    """Whether a metrics.json is of other data that still exist; a path to nothing may be where these data were."""
    try:
        evaluated = read_json(file).get("data")
    except UserError:
        return False
    if not isinstance(evaluated, str):
        return False
    if is_demo(evaluated) or (isinstance(data, str) and is_demo(data)):
        return evaluated != data
    return os.path.exists(evaluated) and Path(evaluated).resolve() != Path(data).resolve()


def write_results(
    model: nn.Module, about: dict[str, Any], images: Images, val: Images | None, out: Path, options: Options
) -> dict[str, Any]:
    """Score the images, print the table and write all files to `out`; returns what metrics.json holds.

    `about` is the beginning of metrics.json: what is evaluated. `val` is the split on which the threshold and the
    temperature are fitted, if any.
    """

    def score(these: Images) -> NDArray[np.float64]:
        return score_logits(model, these, options.device, options.batch_size, options.amp, options.workers)

    def measure(scores: NDArray[np.float64], kept: NDArray[np.int64] | slice = slice(None)) -> dict[str, Any]:
        videos = np.array(images.videos, dtype=object)[kept].tolist()
        return evaluate_with_intervals(videos, images.labels[kept], scores[kept], options.resamples, options.seed)

    logits = score(images)
    scores = to_probabilities(logits)
    val_scored = None
    if val is not None:
        with optional_val(options):
            val_scored = val.labels, score(val)
    from_val = None if val_scored is None else _threshold(*val_scored)
    lightness = lightness_of(images, options.workers)
    by_image = (images.videos, images.labels, scores, from_val, options.resamples, options.seed)
    metrics = about | {
        "trivial_baseline_auc": baseline_of(about["data"], about["split"], images.image_size, images.fingerprint),
        "always_fake_acc": float(images.labels.mean()),
        **measure(scores),
        "methods": {method: measure(scores, kept) for method, kept in _by_method(images).items()},
    }
    metrics |= {
        "threshold_from_val": from_val,
        "at_threshold": at_thresholds(*by_image),
        "lightness": figures_by_lightness(lightness, *by_image),
    }
    if options.resamples:
        metrics["bootstrap"] = {"resamples": options.resamples, "seed": options.seed, "by": "video"}
    print(report(metrics, set(images.videos)))

    _write_pictures(out, model, images, scores, metrics)
    _write_scores(out / SCORES_FILE, images, scores, lightness)
    write_json(out / METRICS_FILE, metrics)
    print(f"wrote metrics.json, scores.csv, roc.png, scores.png and grid.png to {out}")
    if options.calibration and val_scored is not None:
        result = calibration.calibrate(val_scored, (images.labels, logits), images.videos)
        figure = calibration.reliability_figure(result, title_of(metrics))
        _write_more(out, "calibration", metrics, result, figure)
        print(calibration.summary(result))
    if options.robustness:
        found = robustness.curves(images, lambda these: to_probabilities(score(these)), measure)
        result = {"clean": {name: metrics[name] for name in ("frame", "video")}, **found}
        _write_more(out, "robustness", metrics, result, robustness.robustness_figure(result, title_of(metrics)))
    return metrics


@contextmanager
def optional_val(options: Options) -> Iterator[None]:
    """Print a UserError of the val split as the reason why no threshold is fitted; raise it if the split is needed."""
    try:
        yield
    except UserError as error:
        if options.calibration:
            raise
        print(f"no threshold from val: {error}")


def _threshold(labels: NDArray[np.int64], logits: NDArray[np.float64]) -> float | None:
    found = fit_threshold(labels, to_probabilities(logits))
    if found is None:
        print("no threshold from val: all its images have the same score")
    return found


def _by_method(images: Images) -> dict[str, NDArray[np.int64]]:
    """The indices of each method's fakes and of all reals."""
    methods = np.array(images.methods)
    names = sorted(set(images.methods) - {"real"})
    return {method: np.flatnonzero((methods == method) | (images.labels == 0)) for method in names}


def _write_pictures(
    out: Path, model: nn.Module, images: Images, scores: NDArray[np.float64], metrics: dict[str, Any]
) -> None:
    title, attribution = title_of(metrics), ""
    if is_demo(metrics["data"]):
        title, attribution = f"{title}: a demonstration, not FaceForensics++", f". {ATTRIBUTION}"
        write_licence(out)
    videos = video_scores(images.videos, images.labels, scores)
    baseline = metrics["trivial_baseline_auc"]
    plots.save_figure(plots.roc_figure(images.labels, scores, videos, baseline, title), out / "roc.png")
    plots.save_figure(plots.score_figure(images.labels, scores, title), out / "scores.png")
    plots.save_figure(grid_figure(grid_examples(model, images, scores), title + attribution), out / "grid.png")


def _write_more(out: Path, name: str, metrics: dict[str, Any], result: dict[str, Any], figure: Figure) -> None:
    """Write the JSON file and the picture of a result beyond the metrics."""
    plots.save_figure(figure, out / f"{name}.png")
    write_json(out / f"{name}.json", {key: metrics[key] for key in ABOUT} | result)
    print(f"wrote {name}.json and {name}.png to {out}")


def _write_scores(path: Path, images: Images, scores: NDArray[np.float64], lightness: NDArray[np.float64]) -> None:
    """Write one row for each image; the lightness is empty where no face's box is known."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "video", "method", "label", "fake_probability", "prediction", "lightness"])
    columns = (images.names, images.videos, images.methods, images.labels, scores, lightness)
    for *row, score, light in zip(*columns, strict=True):
        writer.writerow([*row, float(score), verdict(score), "" if np.isnan(light) else round(float(light), 2)])
    with replacing(path) as file:
        file.write(text.getvalue().encode(errors="surrogateescape"))
