"""Show where a detector looks in images and videos: one picture of heat maps for each input.

    python examples/deepfake/explain.py runs/demo photo.jpg clip.mp4 folder/ --out seen/

    {"path": "photo.jpg", "fake_probability": 0.93, "prediction": "fake", "explained": "seen/photo.explained.png"}

A picture has a row for each frame (an image is one) and, left to right, what the network saw, its reconstruction and
the error of it, the reconstruction-guided attention map, the gates of EMAM and of SCAM, and Grad-CAM; a model without a
part has no map of it. heatmaps.py tells what they mean. Faces are found and cropped, and errors told, as in predict.py;
the probability of a video is the mean over the frames shown.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepfake.common import cli
from deepfake.common.cli import Parser, UserError, in_range, positive_int
from deepfake.common.files import make_folder
from deepfake.dataset.images import to_unit_range
from deepfake.evaluating import heatmaps
from deepfake.evaluating.metrics import THRESHOLD
from deepfake.evaluating.plots import HeatRow, heat_figure, save_figure
from deepfake.evaluating.scoring import to_probabilities
from deepfake.training.distributed import pick_device
from predict import EXPLAINED, DistinctNames, Predictor, View, add_input_options, each_input, is_video


def explain(predictor: Predictor, path: Path, target: Path) -> dict[str, Any]:
    """Write the heat maps of one image or video; the result, ready for JSON. UserError names what can't be judged."""
    views = [view for view in predictor.views(path) if view.is_judged]
    parts = predictor.crops(views).split(predictor.batch_size)
    seen = [heatmaps.explain(predictor.model, to_unit_range(part).to(predictor.device)) for part in parts]
    scores = to_probabilities(torch.cat([part.logits for part in seen]).numpy())
    if not np.isfinite(scores).all():
        raise UserError(f"{path}: the model's score is not finite (its weights may be damaged)")
    pixels = torch.cat(parts).permute(0, 2, 3, 1).numpy().astype(np.float32) / 255
    rows = [
        HeatRow(_text(view, score, path), image, reconstruction, maps)
        for view, score, image, (reconstruction, maps) in zip(views, scores, pixels, _each(seen), strict=True)
    ]
    save_figure(heat_figure(rows, f"{path.name}, {predictor.name}"), target)
    probability = float(scores.mean())
    return {
        "path": str(path),
        "fake_probability": probability,
        "prediction": "fake" if probability >= THRESHOLD else "real",
        "explained": str(target),
    }


def _each(seen: list[heatmaps.Explained]) -> list[tuple[Any, dict[str, Any]]]:
    """Reconstruction (S, S, 3) in [0, 1], or None, and maps of each image of several batches."""
    found = []
    for part in seen:
        for i in range(len(part.logits)):
            rebuilt = None if part.reconstruction is None else (part.reconstruction[i].permute(1, 2, 0).numpy() + 1) / 2
            found.append((rebuilt, {name: values[i].numpy() for name, values in part.maps.items()}))
    return found


def _text(view: View, score: float, path: Path) -> str:
    answer = f"{'fake' if score >= THRESHOLD else 'real'} ({score:.2f})"
    return f"frame {view.frame}\n{answer}" if is_video(path) else answer


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit code, 1 where an input failed."""
    args = _parser().parse_args(argv)
    predictor = Predictor(
        args.run, crop=args.crop, frames=args.frames, device=pick_device(args.device), batch_size=args.batch_size
    )
    make_folder(args.out)
    names = DistinctNames()

    def one(path: Path) -> None:
        print(json.dumps(explain(predictor, path, args.out / f"{names.of(path)}{EXPLAINED}.png")), flush=True)

    return each_input(args.paths, one)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_input_options(parser)
    parser.add_argument("--out", type=cli.path, required=True, metavar="DIR", help="folder for the pictures")
    parser.add_argument("--frames", type=in_range(int, 1, 64), default=4, help="frames of a video to show (default: 4)")
    parser.add_argument("--batch-size", type=positive_int, default=8, help="images at a time (default: 8)")
    parser.add_argument("--device", default="auto", help="auto (a GPU where there is one), cpu, cuda, cuda:1, ...")
    return parser


if __name__ == "__main__":
    cli.run(main)
