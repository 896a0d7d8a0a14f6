"""Source: one video, photo or folder of frames to prepare. Selection: which sources are wanted."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..common.cli import UserError
from .labels import Labels

COMPRESSIONS = ("raw", "c23", "c40")
"""FF++'s levels of compression."""


@dataclass(frozen=True)
class Selection:
    """Which sources of a folder are wanted; None means all."""

    compression: str
    methods: Sequence[str] | None = None
    splits: Sequence[str] | None = None
    indices: Sequence[Path] = ()
    labels: Labels = field(default_factory=dict)  # that the user gives to spellings in index files


@dataclass(frozen=True)
class Source:
    """One video, photo or folder of frames.

    Args:
        path: the file; or a folder that holds the frames as images, named by their numbers.
        label: 0 real, 1 fake.
        method: the forgery's name; "real" for reals.
        video: the id, unique within its method.
        split: train, val or test.
        frames: numbers of the frames that an index file names; None: the index rule chooses.
        frame_of: for a photo that is a frame of a video, the id of that video. Its face is still found, cropped and
            reported on its own.
        person: who is shown, if the data say so; of a fake, the target.
    """

    path: Path
    label: int
    method: str
    video: str
    split: str
    frames: tuple[int, ...] | None = None
    frame_of: str | None = None
    person: str | None = None

    @property
    def manifest_video(self) -> str:
        """The video's id in the manifest's lines of crops."""
        return self.frame_of or self.video

    def row(self) -> dict[str, Any]:
        """What every line of the manifest says about it."""
        person = {} if self.person is None else {"person": self.person}
        return {"label": self.label, "split": self.split, "method": self.method, "video": self.video, **person}


def check_methods(wanted: Collection[str], present: Collection[str], folder: Path) -> None:
    """UserError that names the first wanted method which is not present."""
    for method in wanted:
        if method not in present:
            raise UserError(f"{folder}: has no method {method!r} (found {', '.join(sorted(present)) or 'none'})")
