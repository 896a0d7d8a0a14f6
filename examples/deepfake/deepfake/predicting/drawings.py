"""The files of predict.py --annotate: an annotated picture of each input, the curve and the clip of each video."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..common.files import replacing
from ..evaluating.plots import save_figure
from ..media.image_files import encode_rgb, read_rgb
from ..media.video import frames_at
from .annotation import annotated
from .clips import curve_figure, write_annotated
from .inputs import ANNOTATED, DistinctNames, is_video
from .predictions import FrameScore


class Drawings:
    """Writes DIR/NAME.annotated.png of every input; of a video the curve too, and with `clip` the annotated video."""

    def __init__(self, folder: Path, clip: bool, model_name: str) -> None:
        self.folder, self.clip, self.model_name = folder, clip, model_name
        self._names = DistinctNames()

    def draw(self, path: Path, frames: Sequence[FrameScore], probability: float) -> dict[str, str]:
        """Write the pictures of one input; returns their paths by kind."""
        scored = [item for item in frames if item.probability is not None]
        middle = scored[len(scored) // 2]
        image = frames_at(path, (middle.frame,))[0][1] if is_video(path) else read_rgb(path)
        start = self.folder / f"{self._names.of(path)}{ANNOTATED}"
        written = {"annotated": f"{start}.png"}
        with replacing(Path(written["annotated"])) as file:
            file.write(encode_rgb(annotated(image, middle.box, probability), ".png"))
        if is_video(path):
            written["curve"] = f"{start}.curve.png"
            save_figure(curve_figure(frames, probability, f"{path.name}, {self.model_name}"), Path(written["curve"]))
        if is_video(path) and self.clip:
            written["clip"] = f"{start}.mp4"
            write_annotated(path, Path(written["clip"]), frames)
        return written
