"""Decodes videos in sequence, picks frames by one index rule and writes H.264 clips, with PyAV (FFmpeg's libraries).

Frames are decoded from the first to the last and counted. Tools that seek, or trust the container's frame count, pick
different frames of the same video.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np

from ..common.cli import UserError, to_stderr
from ..common.files import remove_if_there
from .containers import opened_video
from .decoding import Pass
from .display import ShownFrame, Size, common_size, fitted

REPEATABLE = {"threads": "1", "x264-params": "cpu-independent=1"}  # x264's fast mbtree differs from run to run


def frame_indices(total: int, count: int) -> list[int]:
    """The indices floor((i + 0.5) * total / count), i = 0 ... count - 1; every frame once where total <= count."""
    if total < 1 or count < 1:
        raise ValueError(f"total and count must be at least 1, got total={total}, count={count}")
    if total <= count:
        return list(range(total))
    return [(2 * i + 1) * total // (2 * count) for i in range(count)]


def decode_frames(path: str | Path) -> Iterator[np.ndarray]:
    """Every frame of a video as uint8 RGB (H, W, 3), in order, all of one size. UserError if it can't be decoded."""
    with _naming(path):
        size = common_size({frame.size for frame in Pass(path)})
    return (_rgb(frame, path, size) for frame in Pass(path))


def frame_rate(path: str | Path) -> Fraction:
    """Frames per second, on average; 25 where the container does not say."""
    with opened_video(path) as (_, stream):
        return stream.average_rate or Fraction(25)


def extent(path: str | Path) -> tuple[int, int, int]:
    """The number of frames, counted without decoding, their width and their height. UserError if unreadable."""
    with opened_video(path) as (_, stream):
        width, height = stream.width, stream.height
    return _count_packets(path), width, height


def sample_frames(
    path: str | Path,
    count: int,
    look: Callable[[np.ndarray], Any] | None = None,
    report: Callable[[str], None] = to_stderr,
) -> list[tuple[int, Any]]:
    """`count` frames (all of a shorter video) by the index rule over the decoded frames: (index, uint8 RGB) pairs.

    With `look`, a pair holds look(RGB) instead, and only one frame is in memory at a time. `report` gets a line if
    frames are damaged or missing.

    The packets are counted first, without decoding, so that each frame is decoded once. The rule counts the frames that
    decode: if the numbers differ, the video is decoded a second time; so it is if the frames have several sizes.
    """
    packets = _count_packets(path)
    picked = _pick(path, frame_indices(packets, count), look)
    if picked.total != packets or picked.size:
        picked = _pick(path, frame_indices(picked.total, count), look, picked.size)
    if picked.loss:
        report(f"{path}: {picked.loss}")
    return picked.chosen


def frames_at(
    path: str | Path, indices: Collection[int], report: Callable[[str], None] = to_stderr
) -> list[tuple[int, np.ndarray]]:
    """The frames with these numbers, in order: (index, uint8 RGB) pairs. UserError where the video has fewer."""
    picked = _pick(path, indices)
    if len(picked.chosen) < len(set(indices)):
        lost = f"; {picked.loss}" if picked.loss else ""
        raise UserError(f"{path}: holds {picked.total} frames (wanted number {max(indices)}, counted from 0){lost}")
    if picked.size:
        picked = _pick(path, indices, size=picked.size)
    if picked.loss:
        report(f"{path}: {picked.loss}")
    return picked.chosen


def write_clip(path: Path, frames: Iterable[np.ndarray], crf: int, fps: int | Fraction = 25) -> None:
    """Write uint8 RGB frames (H, W, 3), H and W even, as H.264 (libx264, yuv420p) in MP4.

    The same frames give the same bytes. The file appears complete or not at all; UserError if it can't be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with av.open(os.path.abspath(partial), "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=fps, options={"crf": str(crf), **REPEATABLE})
            stream.pix_fmt = "yuv420p"
            written = 0
            for image in frames:
                if image.shape[0] % 2 or image.shape[1] % 2:
                    raise ValueError(f"frames must have even height and width (yuv420p), got {image.shape}")
                if not written:
                    stream.height, stream.width = image.shape[:2]
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
                container.mux(stream.encode(frame))
                written += 1
            if not written:
                raise ValueError(f"{path}: no frames to write")
            container.mux(stream.encode(None))
        os.replace(partial, path)
    except (OSError, av.FFmpegError) as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        remove_if_there(partial)


def _count_packets(path: str | Path) -> int:
    """The number of packets with a frame to show (frames before the start of a cut are decoded but not shown)."""
    count = 0
    with opened_video(path) as (container, stream), contextlib.suppress(av.FFmpegError):
        for packet in container.demux(stream):
            count += bool(packet.size and not packet.is_discard)
    if not count:
        raise UserError(f"{path}: holds no frame that decodes")
    return count


class _Picked(NamedTuple):
    """The frames that were wanted, how many decode, the size for all (None: they have one), what was lost."""

    chosen: list[tuple[int, Any]]
    total: int
    size: Size | None
    loss: str | None


def _pick(
    path: str | Path,
    indices: Collection[int],
    look: Callable[[np.ndarray], Any] | None = None,
    size: Size | None = None,
) -> _Picked:
    """Decode a video once and keep the frames with these numbers, brought to `size`."""
    wanted, chosen, sizes, frames = set(indices), [], set(), Pass(path)
    for index, frame in enumerate(frames):
        sizes.add(frame.size)
        if index in wanted:
            image = _rgb(frame, path, size)
            chosen.append((index, look(image) if look else image))
    with _naming(path):
        return _Picked(chosen, frames.frames, common_size(sizes), frames.loss())


def _rgb(frame: ShownFrame, path: str | Path, size: Size | None) -> np.ndarray:
    with _naming(path):
        return fitted(frame.rgb(), size)


@contextlib.contextmanager
def _naming(path: str | Path) -> Iterator[None]:
    """Let an error about a video name it."""
    try:
        yield
    except UserError as error:
        name = "" if str(error).startswith(f"{path}: ") else f"{path}: "
        raise UserError(f"{name}{error}") from error
