"""The whole example in one command: train on drawn faces, evaluate, predict one image, leave pictures.

    python examples/deepfake/quickstart.py

Takes a few minutes on two CPU cores and downloads nothing. It runs train.py, evaluate.py and predict.py with the
arguments it prints, so each step can be repeated by hand. Run again, it goes on with a training that was interrupted;
one that had finished is evaluated again. The faces are drawn: this shows that everything works, and is no result.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

import evaluate
import predict
import train
from deepfake.common import cli
from deepfake.common.cli import Parser, positive_int
from deepfake.demo import drawn_images
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
    _announce("Train", "train.py", training)
    train.main(training)

    _announce("Evaluate", "evaluate.py", [str(out), "--data", "demo"])
    results, metrics = evaluate.evaluate(out, "demo")

    image = drawn_images.save_image(out / "example.png", "test", EXAMPLE)
    prediction = [str(out), str(image), "--crop", "none", "--annotate", str(out)]
    _announce("Predict one test image, a fake", "predict.py", prediction)
    failed = predict.main(prediction)
    print(f"\n{_summary(out, results, metrics)}")
    return failed


def _announce(title: str, script: str, arguments: list[str]) -> None:
    print(f"\n== {title}: python examples/deepfake/{script} {shlex.join(arguments)}\n", flush=True)


def _summary(out: Path, results: Path, metrics: dict[str, Any]) -> str:
    return f"""\
== Done. A DEMONSTRATION on drawn faces: no result, and not FaceForensics++.

test AUC by frame             {metrics["frame"]["auc"]:.3f}
trivial cues alone, AUC       {metrics["trivial_baseline_auc"]:.3f}
inputs, reconstructions and attention maps   {results / "grid.png"}
ROC curve and scores                         {results / "roc.png"}, {results / "scores.png"}
the image predicted                          {out / "example.annotated.png"}

Next: your own photos with --data FOLDER (see examples/deepfake/README.md)."""


def _parser() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=cli.path, default=Path("runs/demo"), help="run folder (default: runs/demo)")
    parser.add_argument("--epochs", type=positive_int, help="passes over the drawn faces (default: train.py's)")
    return parser


if __name__ == "__main__":
    cli.run(main)
