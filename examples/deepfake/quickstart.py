"""The whole example in one command: train on real faces and forgeries of them, evaluate, predict, write pictures.

    python examples/deepfake/quickstart.py

It takes a few minutes on two CPU cores and downloads nothing. It runs train.py, evaluate.py, predict.py and explain.py,
and prints the arguments of each, so that you can repeat each step by hand. Run again, it resumes an interrupted
training; a finished one is evaluated again. The figures of the last lines are in OUT/summary.json too, with the commit,
the versions, the machine, and the seconds that it took (null where it resumed). The forgeries are made visible enough
to be learnt in minutes: this shows that everything works, and is not a result about deepfakes.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import evaluate
import explain
import predict
import train
from deepfake.common import cli
from deepfake.common.cli import Parser, non_negative_int, positive_int
from deepfake.common.files import make_folder, write_json
from deepfake.common.texts import read_json
from deepfake.demo.options import TRAINING
from deepfake.demo.people import LICENCE, folds
from deepfake.demo.sample_files import write_samples
from deepfake.evaluating.evaluation import METRICS_FILE, results_folder
from deepfake.training.checkpoint import CONFIG
from deepfake.training.description import SESSION

SUMMARY = "summary.json"


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit code."""
    args = _parser().parse_args(argv)
    out = make_folder(args.out)
    start = time.monotonic()

    training = ["--data", "demo", "--out", str(out), *TRAINING]
    for name in ("epochs", "seed"):
        if getattr(args, name) is not None:
            training += [f"--{name}", str(getattr(args, name))]
    resumed = os.path.exists(out / CONFIG)
    if resumed:
        training.append("--resume")
    _run("Train", train.main, training)
    _run("Evaluate", evaluate.main, [str(out), "--data", "demo"])
    samples = [str(path) for path in write_samples(out)]
    failed = _run(
        "Predict a photo and a clip of a person never seen, and their forgeries",
        predict.main,
        [str(out), *samples, "--annotate", str(out), "--clip"],
    )
    photos = [path for path in samples if path.endswith(".jpg")]
    failed = _run("Show where the detector looks", explain.main, [str(out), *photos, "--out", str(out)]) or failed
    seconds = None if resumed else round(time.monotonic() - start, 1)
    write_json(out / SUMMARY, figures_of(out) | {"seconds": seconds})
    print(f"\n{_summary(out)}")
    return failed or 0


def _run(title: str, command: Callable[[list[str]], int | None], arguments: list[str]) -> int | None:
    script = f"examples/deepfake/{command.__module__}.py"
    print(f"\n== {title}: python {script} {shlex.join(arguments)}\n", flush=True)
    return command(arguments)


def figures_of(out: Path) -> dict[str, Any]:
    """The figures of a finished run, of how many people they are, and what made them."""
    config, metrics = read_json(out / CONFIG), read_json(results_folder(out, "demo") / METRICS_FILE)
    return {
        **{name: config["arguments"][name] for name in ("seed", "epochs")},
        "people": len(folds()[0]),
        **{name: metrics[name] for name in ("frame", "video", "trivial_baseline_auc", "at_threshold", "lightness")},
        **{name: config[name] for name in SESSION},
    }


def _summary(out: Path) -> str:
    results = results_folder(out, "demo")
    metrics: dict[str, Any] = read_json(results / METRICS_FILE)
    groups = metrics["lightness"]
    return f"""\
== Done. A DEMONSTRATION on forgeries made visible: not a result, and not FaceForensics++.

people never seen in training
  test AUC by image             {metrics["frame"]["auc"]:.3f}
  test AUC by video             {metrics["video"]["auc"]:.3f}
  trivial cues alone, AUC       {metrics["trivial_baseline_auc"]:.3f}
  real images called fake       {_false_positives(metrics)}
  {_group("darker faces, of skin or of light", groups["darker"])}
  {_group("lighter faces", groups["lighter"])}
inputs, reconstructions and attention maps   {results / "grid.png"}
ROC curve and scores                         {results / "roc.png"}, {results / "scores.png"}
a photo and its forgery, predicted           {out / "real_photo.annotated.png"}, {out / "fake_photo.annotated.png"}
a clip and its forgery, predicted            {out / "real_clip.annotated.mp4"}, {out / "fake_clip.annotated.mp4"}
where the detector looks                     {out / "real_photo.explained.png"}, {out / "fake_photo.explained.png"}
whose photos these are, and their licence    {out / LICENCE}

Next: your own photos with --data FOLDER (see examples/deepfake/README.md)."""


def _group(name: str, group: dict[str, Any]) -> str:
    auc = "-" if group["auc"] is None else f"{group['auc']:.3f}"
    counts = f"{group['n_real']} real and {group['n_fake']} fake images"
    return f"{name} ({counts}): AUC {auc}, real called fake {_false_positives(group)}"


def _false_positives(figures: dict[str, Any]) -> str:
    """The false-positive rates at 0.5 and at the threshold that was fitted on val."""
    rates = figures["at_threshold"]
    shown = {name: "-" if rate is None or rate["fpr"] is None else f"{rate['fpr']:.0%}" for name, rate in rates.items()}
    return f"{shown['0.5']} at 0.5, {shown['from_val']} at the threshold from val"


def _parser() -> Parser:
    parser = Parser(description=__doc__)
    parser.add_argument("--out", type=cli.path, default=Path("runs/demo"), help="run folder (default: runs/demo)")
    parser.add_argument("--epochs", type=positive_int, help="passes over the training images (default: 4)")
    parser.add_argument("--seed", type=non_negative_int, help="of the training (default: 0)")
    return parser


if __name__ == "__main__":
    cli.run(main)
