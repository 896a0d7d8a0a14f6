"""Show where a detector looks in images and videos: one picture of heat maps for each input.

    python examples/deepfake/explain.py runs/demo photo.jpg clip.mp4 folder/ --out seen/
    python examples/deepfake/explain.py runs/demo --focus demo --out seen/       # figures of a whole split instead

    {"path": "photo.jpg", "fake_probability": 0.93, "prediction": "fake", "explained": "seen/photo.explained.png"}

A picture has a row for each frame (an image has one) and, from left to right: what the network saw, its reconstruction
and the reconstruction's error, the reconstruction-guided attention map, the gates of EMAM and of SCAM, and Grad-CAM. A
model without one of these parts has no map of it. evaluating/heatmaps.py says what each map means. Faces are found and
cropped as in predict.py, and errors are reported alike; a video's probability is the mean over the frames shown.

--focus DATA asks whether the detector looks at eyes, nose and mouth, as the paper's abstract says of EMAM: how much of
EMAM's gate and of Grad-CAM is on them, for their share of the face, in DATA's images with landmarks (the demo; a
folder whose manifest has them), beside untrained networks, with 95 % intervals by person. It writes focus.json and
focus.md. Where the maps are too coarse for the regions, it says so instead (evaluating/focus.py).
"""

from __future__ import annotations

import json
from pathlib import Path

from deepfake.common import cli  # isort: skip (first: Ctrl-C during the imports below then ends in one line)

import torch

from deepfake.common.cli import Parser, UserError, in_range, reading_input
from deepfake.common.files import make_folder, write_json
from deepfake.common.markdown import write_markdown
from deepfake.data import open_split
from deepfake.dataset.manifest import SPLITS
from deepfake.evaluating.focus import UNTRAINED, focus, focus_table
from deepfake.evaluating.plots import save_figure
from deepfake.evaluating.scoring import add_compute_options
from deepfake.evaluating.summary_table import model_name
from deepfake.predicting.answers import explanation
from deepfake.predicting.inputs import EXPLAINED, DistinctNames, add_input_options, each_input
from deepfake.predicting.views import ViewFinder
from deepfake.training.checkpoint import load_run, model_from_config
from deepfake.training.distributed import pick_device
from deepfake.training.placing import choose_channels_last, place


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit code, 1 if an input failed."""
    args = _parser().parse_args(argv)
    if bool(args.paths) == bool(args.focus):
        raise UserError("give PATHs to draw, or --focus DATA to measure (one of them)", 2)
    if args.focus:
        measure_focus(args.run, args.focus, args.split, args.out, args.batch_size, pick_device(args.device))
        return 0
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


def measure_focus(run: Path, data: str, split: str, out: Path, batch_size: int, device: torch.device) -> None:
    """Write focus.json and focus.md to `out`, and print the table."""
    with reading_input():
        model, config = load_run(run, device)
        images = open_split(data, split, config["image_size"])

    def untrained(seed: int) -> torch.nn.Module:
        torch.manual_seed(seed)
        network = model_from_config(config["model"], run)
        return place(network, device, choose_channels_last(None, device))

    about = {
        "run": run.name,
        "model": model_name(config["model"]),
        "checkpoint_epoch": config.get("best", {}).get("epoch"),
        "data": data,
        "split": split,
        "fingerprint": images.fingerprint,
        "image_size": config["image_size"],
    }
    found = about | focus(model, untrained, images, batch_size, UNTRAINED)
    text = focus_table(found)
    make_folder(out)
    write_json(out / "focus.json", found)
    write_markdown(out / "focus.md", text + "\n")
    auc = found.get("auc")
    of = f"{found['images']} images of {found['people']} people" + (f", AUC {auc:.3f}" if auc is not None else "")
    print(f"{text}\n{of}; wrote focus.json and focus.md to {out}")


def _parser() -> Parser:
    parser = Parser(description=__doc__)
    add_input_options(parser, paths="*")
    parser.add_argument("--out", type=cli.path, required=True, metavar="DIR", help="folder for the results")
    parser.add_argument(
        "--focus", type=cli.non_empty, metavar="demo|FOLDER", help="measure on a data set with landmarks"
    )
    parser.add_argument("--split", choices=SPLITS, default="test", help="of --focus (default: %(default)s)")
    parser.add_argument("--frames", type=in_range(int, 1, 64), default=4, help="per video (default: %(default)s)")
    add_compute_options(parser, batch_size=8)
    return parser


if __name__ == "__main__":
    cli.run(main)
