"""Predict how likely images and videos are fake: one JSON object per line on standard output.

    python examples/deepfake/predict.py runs/demo photo.jpg clip.mp4 folder/

    {"path": "photo.jpg", "fake_probability": 0.93, "prediction": "fake", "box": [x0, y0, x1, y1], ...}

The largest face is found and cropped as prepare.py does it (with `--detector yunet`, a detector finds it that misses
fewer); in a video it is followed from frame to frame. `box` is the face in pixels of the upright image, `detector` what
found it; with `--crop none`, which takes the image's central square as it is, both are null. A video has `frames` in
place of `box`: a list of {"frame", "fake_probability", "box", "faces"}, one for each frame that shows the face. Its
probability is their mean. `faces` counts all faces of the picture, of a video the most in one frame; the others than
the largest are not judged. With `--annotate`, `annotated` is the path of a picture with box and probability
(of a video, its middle frame) and `curve` that of a plot over a video's frames; with `--clip` too, `clip` is the path
of the video with box and probability in every frame. A folder stands for all images and videos below it, sorted;
what was left out is counted on standard error. An input that fails is one line there; the other inputs still have their
results, and the exit code is 1. A damaged video is judged from the frames that decode, and a line names the loss.
"""

from __future__ import annotations

import json
from pathlib import Path

from deepfake.common import cli
from deepfake.common.cli import Parser, UserError, positive_int, reading_input
from deepfake.common.files import make_folder
from deepfake.evaluating.scoring import add_amp_option, add_compute_options
from deepfake.evaluating.summary_table import model_name
from deepfake.predicting.answers import answer
from deepfake.predicting.drawings import Drawings
from deepfake.predicting.inputs import add_input_options, each_input
from deepfake.predicting.views import ViewFinder
from deepfake.training.checkpoint import load_run
from deepfake.training.distributed import pick_device
from panet_layers.models import fold_batch_norm


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit code, 1 if an input failed."""
    args = _parser().parse_args(argv)
    if args.clip and not args.annotate:
        raise UserError("--clip needs --annotate DIR, the folder to write to", 2)
    with reading_input():
        model, config = load_run(args.run, pick_device(args.device))
        model = fold_batch_norm(model)
    name = model_name(config["model"])
    finder = ViewFinder(args.crop, args.frames, config["image_size"], args.detector)
    drawings = Drawings(make_folder(args.annotate), args.clip, name) if args.annotate else None

    def predict(path: Path) -> None:
        result, views = answer(path, finder, model, args.batch_size, args.amp)
        result |= {"model": name, "run": str(args.run), "detector": finder.detector.name if finder.detector else None}
        if drawings:
            result |= drawings.draw(path, views, result["fake_probability"])
        print(json.dumps(result), flush=True)

    return each_input(args.paths, predict)


def _parser() -> Parser:
    parser = Parser(description=__doc__)
    add_input_options(parser)
    parser.add_argument("--frames", type=positive_int, default=32, help="scored per video (default: %(default)s)")
    parser.add_argument("--annotate", type=cli.path, metavar="DIR", help="write pictures with box and probability here")
    parser.add_argument("--clip", action="store_true", help="write annotated videos there too (H.264)")
    add_compute_options(parser)
    add_amp_option(parser)
    return parser


if __name__ == "__main__":
    cli.run(main)
