"""Degradations of pictures: JPEG, H.264, blur, noise and shrinking, each at five strengths from mild to severe.

All are deterministic, from uint8 RGB (H, W, 3) of any size to the same. The strength of a blur is relative to the
picture's side, so that it means the same for crops of any size.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import NamedTuple

import av
import cv2
import numpy as np

from ..media.video import REPEATABLE


class Degradation(NamedTuple):
    """One kind of degradation: what its strength means, as an axis label, and its five strengths, mild to severe."""

    axis: str
    strengths: tuple[float, ...]


DEGRADATIONS = {
    "jpeg": Degradation("JPEG quality", (90, 70, 50, 30, 10)),
    "h264": Degradation("H.264 constant rate factor", (18, 23, 30, 37, 44)),
    "blur": Degradation("Gaussian blur, sigma in % of the side", (0.25, 0.5, 1, 1.5, 2)),
    "noise": Degradation("Gaussian noise, deviation of 255", (4, 8, 16, 24, 32)),
    "resize": Degradation("shrunk to this share of the side, and back", (0.75, 0.5, 0.35, 0.25, 0.15)),
}


def degrade(image: np.ndarray, kind: str, strength: float, name: str) -> np.ndarray:
    """A picture degraded by any of DEGRADATIONS except "h264", which needs a clip; `name` seeds the noise."""
    if kind == "noise":
        return noise(image, strength, name)
    functions = {"jpeg": jpeg, "blur": blur, "resize": shrink}
    if kind not in functions:
        raise ValueError(f"kind must be jpeg, blur, noise or resize, got {kind!r}")
    return functions[kind](image, strength)


def jpeg(image: np.ndarray, quality: float) -> np.ndarray:
    """A picture after JPEG compression (4:2:0, by OpenCV)."""
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    assert decoded is not None
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)


def blur(image: np.ndarray, percent: float) -> np.ndarray:
    """A picture after a Gaussian blur with a sigma in % of its shorter side."""
    return cv2.GaussianBlur(image, (0, 0), percent / 100 * min(image.shape[:2]))


def noise(image: np.ndarray, deviation: float, name: str) -> np.ndarray:
    """A picture with Gaussian noise, independent in each value; the same name gives the same noise, scaled."""
    generator = np.random.default_rng(zlib.crc32(name.encode(errors="surrogateescape")))
    noisy = image + deviation * generator.standard_normal(image.shape, dtype=np.float32)
    return np.clip(np.round(noisy), 0, 255).astype(np.uint8)


def shrink(image: np.ndarray, share: float) -> np.ndarray:
    """A picture shrunk to a share of its sides (area averaging), then enlarged to its size (bilinear)."""
    height, width = image.shape[:2]
    small = cv2.resize(
        image, (max(1, round(share * width)), max(1, round(share * height))), interpolation=cv2.INTER_AREA
    )
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def h264(frames: Sequence[np.ndarray], crf: int) -> list[np.ndarray]:
    """The frames of a clip, all of one size, after H.264 compression (libx264, yuv420p) in memory."""
    if len({frame.shape for frame in frames}) != 1:
        raise ValueError(f"frames must be of one size, and at least one; got sizes {[frame.shape for frame in frames]}")
    height, width = frames[0].shape[:2]
    even = [np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), "edge") for frame in frames]
    decoder = av.CodecContext.create("h264", "r")
    decoded = [frame for packet in _encode(even, crf) for frame in decoder.decode(packet)] + decoder.decode(None)
    if len(decoded) != len(frames):
        raise RuntimeError(f"H.264 returned {len(decoded)} of {len(frames)} frames")
    return [frame.to_ndarray(format="rgb24")[:height, :width] for frame in decoded]


def _encode(frames: Sequence[np.ndarray], crf: int) -> Iterable[av.Packet]:
    encoder = av.CodecContext.create("libx264", "w")
    encoder.height, encoder.width = frames[0].shape[:2]
    encoder.pix_fmt, encoder.framerate = "yuv420p", Fraction(25)
    encoder.options = {"crf": str(crf), **REPEATABLE}
    for number, image in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        frame.pts = number
        yield from encoder.encode(frame)
    yield from encoder.encode(None)
