"""What a file is: an image, a video or neither. One rule for all commands, and for named and found files.

The content decides, by Pillow's formats or the first bytes of a video's container. Where it says nothing, as in a
damaged file, the name does, so that such a file is reported as not readable and not left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ..common.cli import UserError
from ..common.files import read_bytes
from .image_files import FORMATS, IMAGE_SUFFIXES, formats_by_start, is_image

Kind = Literal["image", "video"]
VIDEO_SUFFIXES = frozenset({
    ".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mts", ".m2ts", ".mpg", ".mpeg", ".vob", ".3gp", ".3g2", ".wmv",
    ".asf", ".flv", ".f4v", ".ogv", ".mxf", ".dv", ".rm", ".rmvb", ".divx", ".qt",
})  # fmt: skip
STARTS = (  # Matroska, ASF, FLV, Ogg, RealMedia, MPEG, MPEG's video stream, IVF, MXF, NUT
    b"\x1aE\xdf\xa3", b"0&\xb2u\x8ef\xcf\x11", b"FLV\1", b"OggS", b".RMF", b"\0\0\1\xba", b"\0\0\1\xb3", b"DKIF",
    b"\x06\x0e+4\2\5\1\1", b"nut/multimedia container",
)  # fmt: skip
BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"})  # of MP4 and QuickTime, at byte 4
TRANSPORT = ((0, 188), (4, 192), (0, 204))  # MPEG-TS: where the first packet starts, and their size; each has a G first
HEAD = 2048  # bytes that are looked at


def kind_of(path: Path) -> Kind | None:
    """What a file is; None: neither. UserError where it can't be read or is no file."""
    head = read_bytes(path, HEAD)
    suffix = path.suffix.lower()
    formats = formats_by_start(head)
    if "HEIF" in formats or (not FORMATS.isdisjoint(formats) and (suffix in IMAGE_SUFFIXES or is_image(path))):
        return "image"  # FFmpeg would take a tile of a HEIC photo for a video
    if _is_container(head) and (suffix in VIDEO_SUFFIXES or _has_video(path)):
        return "video"
    return "image" if suffix in IMAGE_SUFFIXES else "video" if suffix in VIDEO_SUFFIXES else None


def is_video(path: Path) -> bool:
    """Whether a file is a video, and not an image. UserError where it is neither."""
    kind = kind_of(path)
    if kind is None:
        raise UserError(f"{path}: neither an image nor a video that can be read")
    return kind == "video"


def _is_container(head: bytes) -> bool:
    transport = any(
        len(head) > start + 3 * size and all(head[start + number * size] == ord("G") for number in range(4))
        for start, size in TRANSPORT
    )
    avi = head[:4] == b"RIFF" and head[8:12] == b"AVI "
    return head.startswith(STARTS) or head[4:8] in BOXES or avi or transport


def _has_video(path: Path) -> bool:
    """Whether a container holds more than sound. One that is refused for another reason, such as HDR, does."""
    from .containers import NoVideo, opened_video  # not at the top: to list photos for a training needs no PyAV

    try:
        with opened_video(path):
            return True
    except NoVideo:
        return False
    except UserError:
        return True
