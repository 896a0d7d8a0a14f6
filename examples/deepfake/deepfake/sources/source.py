"""One video, photo or folder of frames to prepare, with its label, method, id and split."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common.cli import UserError
from ..media.video import VIDEO_SUFFIXES


@dataclass(frozen=True)
class Source:
    """One video (or photo): `video` is its id, unique within its method ("real" for reals).

    `frames` are the frames that an index file asks for; None leaves the choice to the index rule. Where `path` is a
    folder, it holds the frames as images, named by their numbers. `frame_of` is the id of the video that a photo is one
    frame of; the frame is still found, cropped and told of by itself.
    """

    path: Path
    label: int
    method: str
    video: str
    split: str
    frames: tuple[int, ...] | None = None
    frame_of: str | None = None

    @property
    def judged_as(self) -> str:
        """The video's id in the manifest's lines of crops."""
        return self.frame_of or self.video

    @property
    def is_video(self) -> bool:
        """Whether it is a video file, with frames to choose from."""
        return self.path.suffix.lower() in VIDEO_SUFFIXES

    def row(self) -> dict[str, Any]:
        """What the manifest says of it in every line."""
        return {"label": self.label, "split": self.split, "method": self.method, "video": self.video}


def check_methods(wanted: Collection[str], present: Collection[str], folder: Path) -> None:
    """UserError that names the first method that was asked for and is not there."""
    for method in wanted:
        if method not in present:
            raise UserError(f"{folder}: has no method {method!r} (found {', '.join(sorted(present)) or 'none'})")


def check_donors(sources: Collection[Source]) -> None:
    """UserError where a fake's name <target>_<source> holds the id of a real video of another split."""
    split_of = {source.video: source.split for source in sources if not source.label}
    for source in sources:
        if source.label:
            for part in source.video.split("_"):
                if split_of.get(part, source.split) != source.split:
                    raise UserError(f"{source.path}: is in {source.split}, but its {part} in {split_of[part]}")
