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
from typing import Any

import av
import numpy as np

from ..common.cli import UserError
from ..common.files import remove_if_there

REPEATABLE = {"threads": "1", "x264-params": "cpu-independent=1"}  # x264's fast mbtree differs from run to run
VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v"})


def frame_indices(total: int, count: int) -> list[int]:
    """The indices floor((i + 0.5) * total / count), i = 0 ... count - 1; every frame once where total <= count."""
    if total < 1 or count < 1:
        raise ValueError(f"total and count must be at least 1, got total={total}, count={count}")
    if total <= count:
        return list(range(total))
    return [(2 * i + 1) * total // (2 * count) for i in range(count)]


def decode_frames(path: str | Path) -> Iterator[np.ndarray]:
    """Every frame of a video as uint8 RGB (H, W, 3), in order. UserError that names the file if it can't be decoded."""
    return map(_to_rgb, _decode(path))


def frame_rate(path: str | Path) -> Fraction:
    """Frames per second, on average; 25 where the container does not say."""
    with _opened(path) as container:
        return container.streams.video[0].average_rate or Fraction(25)


def extent(path: str | Path) -> tuple[int, int, int]:
    """The number of frames, counted without decoding, their width and their height. UserError if unreadable."""
    with _opened(path) as container:
        width, height = container.streams.video[0].width, container.streams.video[0].height
    return _count_packets(path), width, height


def sample_frames(
    path: str | Path, count: int, look: Callable[[np.ndarray], Any] | None = None
) -> list[tuple[int, Any]]:
    """`count` frames (all of a shorter video) by the index rule over the decoded frames: (index, uint8 RGB) pairs.

    With `look`, a pair holds look(RGB) instead, and only one frame is in memory at a time.

    The packets are counted first, without decoding, so that each frame is decoded once. The rule counts the frames that
    decode: if the numbers differ, the video is decoded a second time.
    """
    packets = _count_packets(path)
    total, chosen = _pick(path, frame_indices(packets, count), look)
    if total != packets:
        total, chosen = _pick(path, frame_indices(total, count), look)
    return chosen


def frames_at(path: str | Path, indices: Collection[int]) -> list[tuple[int, np.ndarray]]:
    """The frames with these numbers, in order: (index, uint8 RGB) pairs. UserError where the video has fewer."""
    total, chosen = _pick(path, indices)
    if len(chosen) < len(set(indices)):
        raise UserError(f"{path}: holds {total} frames (wanted number {max(indices)}, counted from 0)")
    return chosen


def write_clip(path: Path, frames: Iterable[np.ndarray], crf: int, fps: int | Fraction = 25) -> None:
    """Write uint8 RGB frames (H, W, 3), H and W even, as H.264 (libx264, yuv420p) in MP4.

    The same frames give the same bytes. The file appears complete or not at all; UserError if it can't be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with av.open(_plain(partial), "w", format="mp4") as container:
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


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[av.container.InputContainer]:
    try:
        with av.open(_plain(path), metadata_errors="replace") as container:  # a title in Latin-1 must not stop us
            if not container.streams.video:
                raise UserError(f"{path}: holds no video stream")
            yield container
    except FileNotFoundError:
        raise UserError(f"{path}: no such video") from None
    except av.FFmpegError as error:
        raise UserError(f"{path}: not a readable video ({error.strerror})") from error


def _plain(path: str | Path) -> str:
    """The absolute path: in `12:30.mp4` FFmpeg would take `12:` for a protocol, as in `http:`."""
    return os.path.abspath(path)


def _decode(path: str | Path) -> Iterator[av.VideoFrame]:
    frame = None
    with _opened(path) as container:
        for frame in container.decode(video=0):
            yield frame
    if frame is None:
        raise UserError(f"{path}: holds no frame that decodes")


def _count_packets(path: str | Path) -> int:
    """The number of packets with a frame to show (frames before the start of a cut are decoded but not shown)."""
    with _opened(path) as container:
        count = sum(1 for packet in container.demux(video=0) if packet.size and not packet.is_discard)
    if not count:
        raise UserError(f"{path}: holds no frame that decodes")
    return count


def _pick(
    path: str | Path, indices: Collection[int], look: Callable[[np.ndarray], Any] | None = None
) -> tuple[int, list[tuple[int, Any]]]:
    """The number of frames that decode, and the pairs of the frames with these numbers."""
    wanted, total, chosen = set(indices), 0, []
    for total, frame in enumerate(_decode(path), start=1):
        if total - 1 in wanted:
            chosen.append((total - 1, look(_to_rgb(frame)) if look else _to_rgb(frame)))
    return total, chosen


def _to_rgb(frame: av.VideoFrame) -> np.ndarray:
    image = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(image, frame.rotation // 90)) if frame.rotation else image
