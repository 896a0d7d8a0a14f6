"""The whole example in one command: train on drawn faces, evaluate, predict one image, write pictures.

    python examples/deepfake/quickstart.py

It takes a few minutes on two CPU cores and downloads nothing. It runs train.py, evaluate.py and predict.py, and prints
the arguments of each, so that you can repeat each step by hand. Run again, it resumes an interrupted training; a
finished one is evaluated again. The faces are drawn: this shows that everything works, and is not a result.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import evaluate
import predict
import train
from deepfake.common import cli
from deepfake.common.cli import Parser, positive_int
from deepfake.common.files import read_json
from deepfake.demo import drawn_images
from deepfake.evaluating.evaluation import METRICS_FILE, results_folder
from deepfake.training.checkpoint import CONFIG

EXAMPLE = 1  # of the demo's test images: the first fake


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit code."""
    args = _parser().parse_args(argv)
    out: Path = args.out

    training = ["--data", "demo", "--variant", "tiny", "--out", str(out)]
    if args.epochs is not None:
        training += ["--epochs", str(args.epochs)]
    if (out / CONFIG).exists():
        training.append("--resume")
    _run("Train", train.main, training)
    _run("Evaluate", evaluate.main, [str(out), "--data", "demo"])
    image = drawn_images.save_image(out / "example.png", "test", EXAMPLE)
    prediction = [str(out), str(image), "--crop", "none", "--annotate", str(out)]
    failed = _run("Predict one test image, a fake", predict.main, prediction)
    print(f"\n{_summary(out)}")
    return failed or 0


def _run(title: str, command: Callable[[list[str]], int | None], arguments: list[str]) -> int | None:
    script = f"examples/deepfake/{command.__module__}.py"
    print(f"\n== {title}: python {script} {shlex.join(arguments)}\n", flush=True)
    return command(arguments)


def _summary(out: Path) -> str:
    results = results_folder(out, "demo")
    metrics: dict[str, Any] = read_json(results / METRICS_FILE)
    return f"""\
== Done. A DEMONSTRATION on drawn faces: not a result, and not FaceForensics++.

test AUC by frame             {metrics["frame"]["auc"]:.3f}
trivial cues alone, AUC       {metrics["trivial_baseline_auc"]:.3f}
inputs, reconstructions and attention maps   {results / "grid.png"}
ROC curve and scores                         {results / "roc.png"}, {results / "scores.png"}
the image predicted                          {out / "example.annotated.png"}

Next: your own photos with --data FOLDER (see examples/deepfake/README.md)."""


def _parser() -> Parser:
    parser = Parser(description=__doc__)
    parser.add_argument("--out", type=cli.path, default=Path("runs/demo"), help="run folder (default: runs/demo)")
    parser.add_argument("--epochs", type=positive_int, help="passes over the drawn faces (default: train.py's)")
    return parser


if __name__ == "__main__":
    cli.run(main)
