"""What happens to a picture on its way: JPEG, H.264, blur, noise, shrinking, each at five strengths, mild to severe.

All take and give uint8 RGB (H, W, 3) of any size and are deterministic. Blur goes by the picture's side, not by pixels,
so that a strength means the same for crops of any size.
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
    """One way to degrade: what its strength is, for an axis, and the five of it, mild to severe."""

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
    """A picture degraded by one of DEGRADATIONS but "h264", which takes clips; `name` seeds the noise."""
    if kind == "jpeg":
        return jpeg(image, int(strength))
    if kind == "blur":
        return blur(image, strength)
    if kind == "noise":
        return noise(image, strength, name)
    if kind == "resize":
        return shrink(image, strength)
    raise ValueError(f"kind must be jpeg, blur, noise or resize, got {kind!r}")


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """Through JPEG (4:2:0, as OpenCV writes it) and back."""
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    assert decoded is not None
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)


def blur(image: np.ndarray, percent: float) -> np.ndarray:
    """Gaussian blur, its sigma in per cent of the shorter side."""
    return cv2.GaussianBlur(image, (0, 0), percent / 100 * min(image.shape[:2]))


def noise(image: np.ndarray, deviation: float, name: str) -> np.ndarray:
    """Independent Gaussian noise on each value, the same for the same name and only scaled by the strength."""
    generator = np.random.default_rng(zlib.crc32(name.encode(errors="surrogateescape")))
    noisy = image + deviation * generator.standard_normal(image.shape, dtype=np.float32)
    return np.clip(np.round(noisy), 0, 255).astype(np.uint8)


def shrink(image: np.ndarray, share: float) -> np.ndarray:
    """Shrunk by area averaging to a share of its sides, and back to its size bilinearly."""
    height, width = image.shape[:2]
    small = cv2.resize(
        image, (max(1, round(share * width)), max(1, round(share * height))), interpolation=cv2.INTER_AREA
    )
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def h264(frames: Sequence[np.ndarray], crf: int) -> list[np.ndarray]:
    """The frames of one clip, all of one size, through H.264 (libx264, yuv420p) and back, in memory."""
    if len({frame.shape for frame in frames}) != 1:
        raise ValueError("frames must be of one size, and at least one")
    height, width = frames[0].shape[:2]
    even = [np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), "edge") for frame in frames]
    decoder = av.CodecContext.create("h264", "r")
    decoded = [frame for packet in _encode(even, crf) for frame in decoder.decode(packet)] + decoder.decode(None)
    if len(decoded) != len(frames):
        raise RuntimeError(f"{len(frames)} frames gave {len(decoded)} back from H.264")
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
