"""Opens video files: containers of known formats only, the stream that is meant to be seen, and what is refused.

FFmpeg would also open playlists and lists of other files (HLS, ffconcat, SDP), and fetch what these name. So only
formats that hold their pictures themselves are read, and only from the file itself.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import av
from av.stream import Disposition

from ..common.cli import UserError
from ..common.files import check_regular

FORMATS = (
    "mov", "matroska", "avi", "mpegts", "mpeg", "asf", "flv", "ogg", "mpegvideo", "m4v", "h264", "hevc", "mjpeg", "dv",
    "mxf", "ivf", "rm", "nut", "wtv",
)  # fmt: skip
MAX_PIXELS = 2**26  # of a frame; 8K has 2**25
OPTIONS = {"format_whitelist": ",".join(FORMATS), "protocol_whitelist": "file", "max_pixels": str(MAX_PIXELS)}
NOT_SHOWN = Disposition.attached_pic | Disposition.timed_thumbnails  # covers, and pictures for a player's time line
HDR = {16: "PQ", 18: "HLG"}  # FFmpeg's numbers of transfer functions


PACKETS_BESIDE = 100
"""Of another track, after which a track that has had one packet only is a still."""


class NoVideo(UserError):
    """A file that cannot be read as a container, or holds no moving pictures."""


@contextlib.contextmanager
def opened_video(path: str | Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """A video and its stream that is meant to be seen. UserError that names the file if it can't be read."""
    check_regular(path, "video")
    try:
        with _opened(path) as container:
            stream = _shown_stream(container, path)
            check_range(stream, path)
            stream.thread_type = "NONE"  # with slices in threads H.264 hides what is damaged
            stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
            yield container, stream
    except UserError:
        raise
    except av.ArgumentError as error:  # what FFmpeg says of a format that is not listed
        raise NoVideo(f"{path}: not a readable video (damaged, or of no format that is read here)") from error
    except Exception as error:  # whatever a decoder raises
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise NoVideo(f"{path}: not a readable video ({reason})") from error


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[av.container.InputContainer]:
    # "replace": a title in Latin-1 must not stop us
    with _nameless(path) as file, av.open(file, "r", metadata_errors="replace", options=OPTIONS) as container:
        yield container


def _shown_stream(container: av.container.InputContainer, path: str | Path) -> av.VideoStream:
    """The stream with the largest picture; of equal ones the default, then the first. Covers are none."""
    streams = [stream for stream in container.streams.video if not stream.disposition & NOT_SHOWN]
    if streams and len(container.streams) > 1:
        stills = _stills(path, {stream.index for stream in streams})
        streams = [stream for stream in streams if stream.index not in stills]
    if not streams:
        found = "only sound and a cover" if container.streams.video else "only sound" if container.streams.audio else ""
        raise NoVideo(f"{path}: holds no video{found and f', {found}'}")
    best = max(streams, key=_rank)
    if best.codec_context is None:
        raise UserError(f"{path}: its video's codec is not known here")
    try:
        check_size(best.width, best.height)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return best


def check_size(width: int, height: int) -> None:
    """UserError where frames are larger than any camera's: they would fill the memory."""
    if width * height > MAX_PIXELS:
        raise UserError(f"frames of {width} x {height} pixels (at most {MAX_PIXELS / 1e6:.0f} million)")


def _stills(path: str | Path, tracks: set[int]) -> set[int]:
    """Which of these tracks hold one picture only: a cover, in formats that have no word for it, such as Matroska."""
    packets = dict.fromkeys(tracks, 0)
    with _opened(path) as container, contextlib.suppress(av.FFmpegError):
        for packet in container.demux([stream for stream in container.streams.video if stream.index in tracks]):
            if packet.stream_index in packets:  # at the end, PyAV returns an empty packet of every track
                packets[packet.stream_index] += bool(packet.size)
            if min(packets.values()) > 1 or max(packets.values()) > PACKETS_BESIDE:
                break
    return {track for track, count in packets.items() if count == 1}


def _rank(stream: av.VideoStream) -> tuple[bool, int, bool]:
    context = stream.codec_context
    pixels = context.width * context.height if context else 0
    return context is not None, pixels, bool(stream.disposition & Disposition.default)


def check_range(stream: av.VideoStream, path: str | Path) -> None:
    """UserError where the video is HDR, as far as it is known: its brightness can't be mapped to a picture's here."""
    kind = HDR.get(stream.codec_context.color_trc)
    if kind:
        raise UserError(f"{path}: HDR video ({kind}) is not supported; convert it to SDR")


def _nameless(path: str | Path) -> io.FileIO:
    """The open file, for FFmpeg without its name: `12:30.mp4` would be a protocol as `http:` is, `a.jpg` an image."""
    file = io.FileIO(path)
    file.name = ""  # type: ignore[misc]
    return file
