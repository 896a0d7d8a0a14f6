"""Show where a detector looks in images and videos: one picture of heat maps for each input.

    python examples/deepfake/explain.py runs/demo photo.jpg clip.mp4 folder/ --out seen/

    {"path": "photo.jpg", "fake_probability": 0.93, "prediction": "fake", "explained": "seen/photo.explained.png"}

A picture has a row for each frame (an image has one) and, from left to right: what the network saw, its reconstruction
and the reconstruction's error, the reconstruction-guided attention map, the gates of EMAM and of SCAM, and Grad-CAM. A
model without one of these parts has no map of it. evaluating/heatmaps.py says what each map means. Faces are found and
cropped as in predict.py, and errors are reported alike; a video's probability is the mean over the frames shown.
"""

from __future__ import annotations

import json
from pathlib import Path

from deepfake.common import cli
from deepfake.common.cli import Parser, in_range, reading_input
from deepfake.common.files import make_folder
from deepfake.evaluating.plots import save_figure
from deepfake.evaluating.scoring import add_compute_options
from deepfake.evaluating.summary_table import model_name
from deepfake.predicting.answers import explanation
from deepfake.predicting.inputs import EXPLAINED, DistinctNames, add_input_options, each_input
from deepfake.predicting.views import ViewFinder
from deepfake.training.checkpoint import load_run
from deepfake.training.distributed import pick_device


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit code, 1 if an input failed."""
    args = _parser().parse_args(argv)
    with reading_input():
        model, config = load_run(args.run, pick_device(args.device))
    name = model_name(config["model"])
    finder = ViewFinder(args.crop, args.frames, config["image_size"], args.detector)
    make_folder(args.out)
    names = DistinctNames()

    def explain(path: Path) -> None:
        result, figure = explanation(path, finder.views(path), model, args.batch_size, name)
        target = args.out / f"{names.of(path)}{EXPLAINED}.png"
        save_figure(figure, target)
        print(json.dumps(result | {"explained": str(target)}), flush=True)

    return each_input(args.paths, explain)


def _parser() -> Parser:
    parser = Parser(description=__doc__)
    add_input_options(parser)
    parser.add_argument("--out", type=cli.path, required=True, metavar="DIR", help="folder for the pictures")
    parser.add_argument("--frames", type=in_range(int, 1, 64), default=4, help="per video (default: %(default)s)")
    add_compute_options(parser, batch_size=8)
    return parser


if __name__ == "__main__":
    cli.run(main)
