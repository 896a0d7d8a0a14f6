"""Say of images and videos how likely they are fake: one JSON object a line on standard output.

    python examples/deepfake/predict.py runs/demo photo.jpg clip.mp4 folder/

    {"path": "photo.jpg", "fake_probability": 0.93, "prediction": "fake", "box": [x0, y0, x1, y1], ...}

The largest face is found and cropped as prepare.py does, in a video followed from frame to frame. `box` is where it is,
in pixels of the upright image, and null with `--crop none`, which takes the image's central square as it is. A video's
probability is the mean over those of its frames that show the face; its line has `frames`, a list of {"frame",
"fake_probability", "box"}, in place of `box`. With `--annotate`, `annotated` names the picture drawn, for a video its
middle frame. A folder stands for all images and videos below it, sorted. An input that fails gives one line on standard
error, the others still their result, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

import cli
from annotate import annotated
from checkpoint import load_run
from cli import Parser, UserError, positive_int
from data import square
from distributed import pick_device
from evaluate import model_name
from faces import CROP_SCALE, FaceDetector, square_crop
from files import files_below, make_folder, replacing
from images import encode_rgb, read_rgb
from manifest import IMAGE_SUFFIXES
from metrics import THRESHOLD
from scoring import add_compute_options, probabilities
from tracks import boxes, follow
from video import VIDEO_SUFFIXES, sample_frames

Box = tuple[float, float, float, float]
DRAWN = ".annotated.png"  # how the names of pictures end that --annotate drew; no inputs when found in a folder


class View(NamedTuple):
    """One picture to judge: the still itself or one frame of a video, and its face's box."""

    frame: int
    image: np.ndarray
    box: Box | None


class Predictor:
    """A trained model with its way of finding faces.

    Args:
        run: a run folder of train.py, or one of save_pretrained.
        crop: "face" to find and crop the largest face, "none" to take the whole picture.
        frames: how many frames of a video to look at.
        annotate: a folder for annotated pictures.
        device, amp, batch_size: see scoring.py.
    """

    def __init__(
        self,
        run: Path,
        *,
        crop: str = "face",
        frames: int = 32,
        annotate: Path | None = None,
        device: torch.device | None = None,
        amp: str = "none",
        batch_size: int = 32,
    ) -> None:
        self.run, self.frames, self.amp, self.batch_size = run, frames, amp, batch_size
        self.annotate = annotate
        self._drawn: dict[Path, Path] = {}
        self.device = device or pick_device("auto")
        self.model: nn.Module
        self.model, config = load_run(run, self.device)
        self.image_size, self.name = config["image_size"], model_name(config["model"])
        self.detector = FaceDetector() if crop == "face" else None

    def predict(self, path: Path) -> dict[str, Any]:
        """The result for one image or video, ready for JSON. Raises UserError naming a file that can't be judged."""
        is_video = path.suffix.lower() in VIDEO_SUFFIXES
        views = self._views(path, is_video)
        scores = self._score(views)
        if not np.isfinite(scores).all():
            raise UserError(f"{path}: the model's score is not finite (its weights may be damaged)")
        probability = float(scores.mean())
        result: dict[str, Any] = {
            "path": str(path),
            "fake_probability": probability,
            "prediction": "fake" if probability >= THRESHOLD else "real",
        }
        if is_video:
            result["frames"] = [
                {"frame": view.frame, "fake_probability": float(score), "box": _rounded(view.box)}
                for view, score in zip(views, scores, strict=True)
            ]
        else:
            result["box"] = _rounded(views[0].box)
        result |= {"model": self.name, "run": str(self.run)}
        if self.annotate:
            view = views[len(views) // 2]
            result["annotated"] = self._write_picture(path, annotated(view.image, view.box, probability))
        return result

    def _write_picture(self, source: Path, picture: np.ndarray) -> str:
        """Write DIR/NAME.annotated.png; a number tells apart sources of the same name in different folders."""
        assert self.annotate
        target, number = self.annotate / f"{source.stem}{DRAWN}", 2
        while self._drawn.setdefault(target, source) != source:
            target, number = self.annotate / f"{source.stem}-{number}{DRAWN}", number + 1
        with replacing(target) as file:
            file.write(encode_rgb(picture, ".png"))
        return str(target)

    def _views(self, path: Path, is_video: bool) -> list[View]:
        """The picture, or those of the chosen frames that show the face."""
        pictures = sample_frames(path, self.frames) if is_video else [(0, read_rgb(path))]
        if self.detector is None:
            return [View(frame, image, None) for frame, image in pictures]
        track = boxes(follow([self.detector.detect(image) for _, image in pictures]), missing="drop")
        views = [View(frame, image, box) for (frame, image), box in zip(pictures, track, strict=True) if box]
        if not views:
            where = f"in any of {len(pictures)} frames" if is_video else "found"
            raise UserError(f"{path}: no face {where} (--crop none takes pictures that are face crops already)")
        return views

    def _score(self, views: list[View]) -> np.ndarray:
        crops = [square(self._crop(view), self.image_size) for view in views]
        images = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)
        batches = images.split(self.batch_size)
        return np.concatenate([probabilities(self.model, batch.to(self.device), self.amp) for batch in batches])

    def _crop(self, view: View) -> np.ndarray:
        return view.image if view.box is None else square_crop(view.image, view.box, CROP_SCALE)


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit code, 1 where an input failed."""
    args = _parser().parse_args(argv)
    predictor = Predictor(
        args.run,
        crop=args.crop,
        frames=args.frames,
        annotate=args.annotate,
        device=pick_device(args.device),
        amp=args.amp,
        batch_size=args.batch_size,
    )
    if args.annotate:
        make_folder(args.annotate)
    failed = False
    for item in expand(args.paths):
        try:
            if isinstance(item, UserError):
                raise item
            print(json.dumps(predictor.predict(item)), flush=True)
        except UserError as error:
            failed = True
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    return int(failed)


def expand(paths: list[Path]) -> Iterator[Path | UserError]:
    """The files to judge, in order; a folder gives all images and videos below it, sorted, or an error."""
    for path in paths:
        if not path.is_dir():
            yield path if path.exists() else UserError(f"{path}: no such file or folder")
            continue
        found = files_below(path, IMAGE_SUFFIXES | VIDEO_SUFFIXES)
        files = [file for file in found if not file.name.endswith(DRAWN)]
        if not files:
            yield UserError(f"{path}: holds no image or video")
        yield from files


def _rounded(box: Box | None) -> list[float] | None:
    return None if box is None else [round(side, 1) for side in box]


def _parser() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=cli.path, metavar="RUN", help="run folder of train.py, or one of save_pretrained")
    parser.add_argument("paths", type=cli.path, nargs="+", metavar="PATH", help="images, videos, or folders of them")
    parser.add_argument(
        "--crop",
        choices=("face", "none"),
        default="face",
        help="find and crop the largest face, or take the picture as a face crop already (default: face)",
    )
    parser.add_argument("--frames", type=positive_int, default=32, help="frames of a video to judge (default: 32)")
    parser.add_argument("--annotate", type=cli.path, metavar="DIR", help="draw box and probability into pictures here")
    add_compute_options(parser)
    return parser


if __name__ == "__main__":
    cli.run(main)
