"""Say of images and videos how likely they are fake: one JSON object a line on standard output.

    python examples/deepfake/predict.py runs/demo photo.jpg clip.mp4 folder/

    {"path": "photo.jpg", "fake_probability": 0.93, "prediction": "fake", "box": [x0, y0, x1, y1], ...}

The largest face is found and cropped as prepare.py does, in a video followed from frame to frame. `box` is where it is,
in pixels of the upright image, and null with `--crop none`, which takes the image's central square as it is. A video's
probability is the mean over those of its frames that show the face; its line has `frames`, a list of {"frame",
"fake_probability", "box"}, in place of `box`. With `--annotate`, `annotated` names the picture drawn, for a video its
middle frame, and `curve` the curve of a video's frames; with `--clip` too, `clip` is the video with box and probability
in every frame. A folder stands for all images and videos below it, sorted. An input that fails gives one line on
standard error, the others still their result, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from deepfake.common import cli
from deepfake.common.cli import Parser, UserError, positive_int, reading_input
from deepfake.common.files import files_below, make_folder, replacing
from deepfake.dataset.images import square
from deepfake.dataset.manifest import IMAGE_SUFFIXES
from deepfake.evaluating.metrics import THRESHOLD
from deepfake.evaluating.plots import save_figure
from deepfake.evaluating.scoring import add_compute_options, probabilities
from deepfake.media.faces import CROP_SCALE, Face, FaceDetector, square_crop
from deepfake.media.image_files import encode_rgb, read_rgb
from deepfake.media.tracks import follow
from deepfake.media.video import VIDEO_SUFFIXES, frames_at, sample_frames
from deepfake.predicting.annotation import annotated
from deepfake.predicting.clips import Box, Judged, curve_figure, listed, rounded, write_annotated
from deepfake.training.checkpoint import load_run
from deepfake.training.distributed import pick_device
from evaluate import model_name

DRAWN, EXPLAINED = ".annotated", ".explained"  # in names of what was drawn here; no inputs when found in a folder


class View(NamedTuple):
    """One picture, the still itself or one frame of a video: what the network sees of it, and its face's box."""

    frame: int
    pixels: np.ndarray | None  # uint8 (S, S, 3); None where the face is missing
    box: Box | None

    @property
    def is_judged(self) -> bool:
        """Whether there is something to judge."""
        return self.pixels is not None


class Predictor:
    """A trained model with its way of finding faces.

    Args:
        run: a run folder of train.py, or one of save_pretrained.
        crop: "face" to find and crop the largest face, "none" to take the whole picture.
        frames: how many frames of a video to look at.
        annotate: a folder for annotated pictures and videos' curves.
        clip: whether to write annotated videos there too.
        device, amp, batch_size: see scoring.py.
    """

    def __init__(
        self,
        run: Path,
        *,
        crop: str = "face",
        frames: int = 32,
        annotate: Path | None = None,
        clip: bool = False,
        device: torch.device | None = None,
        amp: str = "none",
        batch_size: int = 32,
    ) -> None:
        self.run, self.frames, self.amp, self.batch_size = run, frames, amp, batch_size
        self.annotate, self.clip = annotate, clip
        self._names = DistinctNames()
        self.device = device or pick_device("auto")
        self.model: nn.Module
        with reading_input():
            self.model, config = load_run(run, self.device)
        self.image_size, self.name = config["image_size"], model_name(config["model"])
        self.detector = FaceDetector() if crop == "face" else None

    def predict(self, path: Path) -> dict[str, Any]:
        """The result for one image or video, ready for JSON. Raises UserError naming a file that can't be judged."""
        views = self.views(path)
        shown = [view for view in views if view.is_judged]
        scores = self._score(shown)
        if not np.isfinite(scores).all():
            raise UserError(f"{path}: the model's score is not finite (its weights may be damaged)")
        probability = float(scores.mean())
        result: dict[str, Any] = {
            "path": str(path),
            "fake_probability": probability,
            "prediction": "fake" if probability >= THRESHOLD else "real",
        }
        found = dict(zip((view.frame for view in shown), scores.tolist(), strict=True))
        judged = [Judged(view.frame, found.get(view.frame), view.box) for view in views]
        result |= {"frames": listed(judged)} if is_video(path) else {"box": rounded(views[0].box)}
        result |= {"model": self.name, "run": str(self.run)}
        if self.annotate:
            result |= self._draw(path, shown[len(shown) // 2], judged, probability)
        return result

    def _draw(self, path: Path, view: View, judged: list[Judged], probability: float) -> dict[str, str]:
        """Write the pictures of one input; their paths by what they are."""
        image = frames_at(path, (view.frame,))[0][1] if is_video(path) else read_rgb(path)
        pictures = {"annotated": self._target(path, ".png")}
        with replacing(pictures["annotated"]) as file:
            file.write(encode_rgb(annotated(image, view.box, probability), ".png"))
        if is_video(path):
            pictures["curve"] = self._target(path, ".curve.png")
            save_figure(curve_figure(judged, probability, f"{path.name}, {self.name}"), pictures["curve"])
        if is_video(path) and self.clip:
            pictures["clip"] = self._target(path, ".mp4")
            write_annotated(path, pictures["clip"], judged)
        return {name: str(target) for name, target in pictures.items()}

    def _target(self, source: Path, suffix: str) -> Path:
        """DIR/NAME.annotated.SUFFIX; a number tells apart sources of the same name in different folders."""
        assert self.annotate
        return self.annotate / f"{self._names.of(source)}{DRAWN}{suffix}"

    def views(self, path: Path) -> list[View]:
        """The picture, or the chosen frames of a video. Raises UserError where none shows a face."""
        looked = sample_frames(path, self.frames, self._look) if is_video(path) else [(0, self._look(read_rgb(path)))]
        track = follow([[face for face in seen if face] for _, seen in looked])
        views = [
            View(frame, seen.get(face), face.box if face else None)
            for (frame, seen), face in zip(looked, track, strict=True)
        ]
        if not any(view.is_judged for view in views):
            where = f"in any of {len(views)} frames" if is_video(path) else "found"
            raise UserError(f"{path}: no face {where} (--crop none takes pictures that are face crops already)")
        return views

    def _look(self, image: np.ndarray) -> dict[Face | None, np.ndarray]:
        """What is kept of a picture, for many of full size take gigabytes: the network's view of each face.

        With --crop none there is one, of the whole picture, and no face (None).
        """
        if self.detector is None:
            return {None: square(image, self.image_size)}
        faces = self.detector.detect(image)
        return {face: square(square_crop(image, face.box, CROP_SCALE), self.image_size) for face in faces}

    def crops(self, views: list[View]) -> torch.Tensor:
        """What the network sees of those that are judged: uint8 (N, 3, S, S)."""
        pixels = np.stack([view.pixels for view in views if view.pixels is not None])
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)

    def _score(self, views: list[View]) -> np.ndarray:
        batches = (views[at : at + self.batch_size] for at in range(0, len(views), self.batch_size))
        return np.concatenate(
            [probabilities(self.model, self.crops(batch).to(self.device), self.amp) for batch in batches]
        )


class DistinctNames:
    """A name for each source's pictures: its own, with a number where another source has the same."""

    def __init__(self) -> None:
        self._source_of: dict[str, Path] = {}

    def of(self, source: Path) -> str:
        """The source's name without suffix; the same source always has the same."""
        name, number = source.stem, 2
        while self._source_of.setdefault(name, source) != source:
            name, number = f"{source.stem}-{number}", number + 1
        return name


def is_video(path: Path) -> bool:
    """Whether a file's name says that it is a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit code, 1 where an input failed."""
    args = _parser().parse_args(argv)
    if args.clip and not args.annotate:
        raise UserError("--clip needs --annotate DIR, the folder to write to", 2)
    predictor = Predictor(
        args.run,
        crop=args.crop,
        frames=args.frames,
        annotate=args.annotate,
        clip=args.clip,
        device=pick_device(args.device),
        amp=args.amp,
        batch_size=args.batch_size,
    )
    if args.annotate:
        make_folder(args.annotate)
    return each_input(args.paths, lambda path: print(json.dumps(predictor.predict(path)), flush=True))


def each_input(paths: list[Path], action: Callable[[Path], None]) -> int:
    """Do it for every file of the paths; the exit code, 1 where one failed, which a line on standard error names."""
    failed = False
    for item in expand(paths):
        try:
            if isinstance(item, UserError):
                raise item
            action(item)
        except UserError as error:
            failed = True
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    return int(failed)


def expand(paths: list[Path]) -> Iterator[Path | UserError]:
    """The files to judge, in order; a folder gives all images and videos below it, sorted, or an error."""
    for path in paths:
        try:
            is_folder = stat.S_ISDIR(path.stat().st_mode)
        except OSError as error:
            yield UserError(f"{path}: {error.strerror}")
            continue
        if not is_folder:
            yield path
            continue
        found = files_below(path, IMAGE_SUFFIXES | VIDEO_SUFFIXES)
        files = [file for file in found if not _is_drawn(file)]
        if not files:
            yield UserError(f"{path}: holds no image or video")
        yield from files


def _is_drawn(file: Path) -> bool:
    return file.stem.removesuffix(".curve").endswith((DRAWN, EXPLAINED))


def add_input_options(parser: argparse.ArgumentParser) -> None:
    """What to judge with what, and how the face is found: RUN, PATH..., --crop."""
    parser.add_argument("run", type=cli.path, metavar="RUN", help="run folder of train.py, or one of save_pretrained")
    parser.add_argument("paths", type=cli.path, nargs="+", metavar="PATH", help="images, videos, or folders of them")
    parser.add_argument(
        "--crop",
        choices=("face", "none"),
        default="face",
        help="find and crop the largest face, or take the picture as a face crop already (default: face)",
    )


def _parser() -> argparse.ArgumentParser:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_input_options(parser)
    parser.add_argument("--frames", type=positive_int, default=32, help="frames of a video to judge (default: 32)")
    parser.add_argument("--annotate", type=cli.path, metavar="DIR", help="draw box and probability into pictures here")
    parser.add_argument("--clip", action="store_true", help="write annotated videos there too (H.264)")
    add_compute_options(parser)
    return parser


if __name__ == "__main__":
    cli.run(main)
