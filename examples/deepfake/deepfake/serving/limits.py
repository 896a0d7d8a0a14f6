"""What the page accepts: the size of an upload, and of a picture or video as the file states it, before decoding."""

from __future__ import annotations

from pathlib import Path

from ..common.cli import UserError
from ..media.file_kinds import is_video
from ..media.image_files import opened
from ..media.video import extent

MEGABYTE = 2**20
MAX_BYTES = 50 * MEGABYTE  # of an upload
MAX_PIXELS = 50_000_000  # of a picture
MAX_FRAME_PIXELS = 4096 * 2304  # of a video's frame: 4K
MAX_FRAMES = 3600  # of a video: two minutes at 30 frames per second


class TooLarge(UserError):
    """An upload of more than MAX_BYTES."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name}: larger than {MAX_BYTES // MEGABYTE} MB, the most this page takes (predict.py takes any)"
        )


def check_extent(path: Path) -> None:
    """UserError if a picture or video is too large to decode here, or is not readable."""
    if is_video(path):
        frames, width, height = extent(path)
        if frames > MAX_FRAMES:
            raise UserError(f"{path}: {frames:,} frames (this page takes {MAX_FRAMES:,} at most; predict.py takes any)")
        limit = MAX_FRAME_PIXELS
    else:
        with opened(path) as image:
            width, height = image.size
        limit = MAX_PIXELS
    if width * height > limit:
        wanted = f"this page takes {limit / 1e6:.1f} million at most; predict.py takes more"
        raise UserError(f"{path}: {width} x {height} pixels ({wanted})")
