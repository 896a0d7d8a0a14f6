"""Videos for tests: any container and codec, several streams, sizes that change, display matrices, damage."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition

Matrix = tuple[float, float, float, float]
"""a, b, c, d: a pixel at (x, y) is shown at (a x + c y, b x + d y), and moved into the picture."""


def save_video(
    path: Path,
    frames: Iterable[np.ndarray],
    codec: str = "libx264",
    aspect: Fraction | None = None,
    transfer: int | None = None,
    header_first: bool = False,
    **options: str,
) -> Path:
    """Write uint8 RGB frames of one size at 25 frames per second; the suffix says the container."""
    container_options = {"movflags": "faststart"} if header_first else {}
    with av.open(str(path), "w", container_options=container_options) as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.pix_fmt = "yuv420p"
        for number, image in enumerate(frames):
            if not number:
                stream.height, stream.width = image.shape[:2]
                if aspect:
                    stream.codec_context.sample_aspect_ratio = aspect
                if transfer:
                    stream.codec_context.color_trc = transfer
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
        container.mux(stream.encode(None))
    return path


def save_streams(path: Path, tracks: Sequence[tuple[str, Sequence[np.ndarray], Any]], sound: bool = False) -> Path:
    """Write one stream for each (codec, frames, disposition or None), then one of silence."""
    with av.open(str(path), "w", format="mp4" if path.suffix == ".m4a" else None) as container:
        streams = []
        for codec, frames, disposition in tracks:
            stream = container.add_stream(codec, rate=25)
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            stream.height, stream.width = frames[0].shape[:2]
            if disposition is not None:
                stream.disposition = disposition
            streams.append(stream)
        audio = container.add_stream("aac", rate=44100, layout="mono") if sound else None
        for stream, (_, frames, _) in zip(streams, tracks, strict=True):
            for image in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode(None))
        if audio is not None:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
            silence.sample_rate = 44100
            container.mux(audio.encode(silence))
            container.mux(audio.encode(None))
    return path


COVER = Disposition.attached_pic


def save_changing_sizes(path: Path, parts: Sequence[Sequence[np.ndarray]]) -> Path:
    """Write a VP8 stream whose frames change their size from part to part, as calls over a network do."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx", rate=25)
        stream.pix_fmt = "yuv420p"
        stream.height, stream.width = parts[0][0].shape[:2]
        stream.time_base = Fraction(1, 25)
        number = 0
        for frames in parts:
            encoder = av.CodecContext.create("libvpx", "w")
            encoder.pix_fmt, encoder.time_base, encoder.framerate = "yuv420p", Fraction(1, 25), Fraction(25)
            encoder.height, encoder.width = frames[0].shape[:2]
            images = [av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24") for image in frames]
            packets = [packet for image in [*images, None] for packet in encoder.encode(image)]
            for packet in packets:
                packet.stream, packet.pts, packet.dts = stream, number, number
                packet.time_base = Fraction(1, 25)
                number += 1
                container.mux(packet)
    return path


def set_matrix(path: Path, matrix: Matrix) -> Path:
    """Write a display matrix into the header of an MP4's first track."""
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 4 + 40
    a, b, c, d = (round(number * 2**16) for number in matrix)
    content[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 2**30)
    path.write_bytes(content)
    return path


def put_cover_first(path: Path) -> Path:
    """Move the metadata of an MP4, which hold its cover, before its tracks."""
    content = path.read_bytes()
    begin = content.index(b"moov") - 4
    (size,) = struct.unpack(">I", content[begin : begin + 4])
    boxes, place = [], begin + 8
    while place < begin + size:
        (length,) = struct.unpack(">I", content[place : place + 4])
        boxes.append(content[place : place + length])
        place += length
    boxes.sort(key=lambda box: (box[4:8] != b"mvhd", box[4:8] != b"udta"))
    path.write_bytes(content[: begin + 8] + b"".join(boxes) + content[begin + size :])
    return path


def overwrite(path: Path, begin: float, length: float) -> Path:
    """Overwrite a part of a file, from a share of its length on."""
    content = bytearray(path.read_bytes())
    first, count = int(begin * len(content)), int(length * len(content))
    content[first : first + count] = b"\x55" * count
    path.write_bytes(content)
    return path


def cut(path: Path, share: float) -> Path:
    """Keep only the first part of a file."""
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    return path
