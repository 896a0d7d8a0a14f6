"""Forges the demo's faces, and films real and fake with the same camera.

Real and fake go through one function. A picture is two layers, the target and the donor, blended by a soft mask; each
layer is resampled exactly once, then both are scaled down, get the same camera noise and the same two rounds of lossy
compression. A real is the case in which the target is its own donor. So nothing but the forgery itself (a region whose
place, tone, light, sharpness or grain does not fit) tells the classes apart: not resampling, noise or compression.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .demo_faces import DrawnPortrait

METHODS = ("blend", "swap")


@dataclass(frozen=True)
class Camera:
    """How a shot is filmed; the same for its real and its fake."""

    angle: float
    zoom: float
    shift: tuple[float, float]
    sharpness: float
    noise: float
    noise_seed: int
    quality: tuple[int, int]
    offset: tuple[int, int]


@dataclass(frozen=True)
class Forgery:
    """What is pasted into a shot, and how badly it fits. Lengths are in canvas sides."""

    method: str
    region: str
    shift: tuple[float, float]
    zoom: float
    angle: float
    gain: tuple[float, float, float]
    match: float
    sharpness: float
    edge: float
    ragged: tuple[float, ...]


def sample_camera(rng: np.random.Generator) -> Camera:
    """A camera drawn at random."""
    return Camera(
        angle=rng.uniform(-2, 2),
        zoom=rng.uniform(0.97, 1.05),
        shift=(rng.uniform(-0.02, 0.02), rng.uniform(-0.02, 0.02)),
        sharpness=rng.uniform(-0.5, 0.5),
        noise=rng.uniform(0.5, 4.0),
        noise_seed=int(rng.integers(2**31)),
        quality=(int(rng.integers(70, 95)), int(rng.integers(60, 92))),
        offset=(int(rng.integers(8)), int(rng.integers(8))),
    )


def sample_forgery(rng: np.random.Generator, method: str) -> Forgery:
    """A forgery of the given method ("blend" or "swap"), drawn at random."""
    blend = method == "blend"
    turn = rng.uniform(0, 2 * np.pi)
    distance = rng.uniform(0.010, 0.030) if blend else rng.uniform(0, 0.012)
    brightness = float(rng.choice([-1, 1])) * rng.uniform(0.28, 0.55)
    gain = np.exp(brightness + rng.normal(0, 0.15, size=3))
    return Forgery(
        method=method,
        region=str(rng.choice(["face", "face", "face", "eyes", "mouth"])),
        shift=(float(distance * np.cos(turn)), float(distance * np.sin(turn))),
        zoom=float(np.exp(rng.normal(0, 0.04 if blend else 0.02))),
        angle=rng.normal(0, 4.0 if blend else 2.0),
        gain=(float(gain[0]), float(gain[1]), float(gain[2])),
        match=rng.uniform(0.4, 0.8),
        sharpness=float(rng.choice([-1, 1])) * rng.uniform(0.4, 1.3),
        edge=rng.uniform(0.005, 0.014),
        ragged=tuple(rng.uniform(0.85, 1.12, size=24).tolist()),
    )


def film_drawing(
    target: DrawnPortrait, camera: Camera, size: int, forgery: Forgery | None = None, donor: DrawnPortrait | None = None
) -> np.ndarray:
    """A drawn portrait as uint8 (size, size, 3) sRGB: real, or with `donor`'s region forged into it."""
    motion = _motion(camera, target.pixels.shape[0])
    layer = _resample(_sharpen(target.pixels, camera.sharpness), motion)
    if forgery is not None:
        source = donor or target
        place = _displacement(forgery, target) @ _similarity(source.landmarks, target.landmarks)
        pasted = _resample(_sharpen(source.pixels, camera.sharpness + forgery.sharpness), motion @ place)
        mask = _mask(forgery, target, motion)
        pasted = cv2.transform(pasted, _tone(pasted, layer, mask, forgery))
        layer = cv2.blendLinear(pasted, layer, mask, 1 - mask)
    return _develop(layer, camera, size)


def _similarity_matrix(
    angle: float, zoom: float, shift: tuple[float, float], centre: tuple[float, float]
) -> np.ndarray:
    matrix = np.eye(3)
    matrix[:2] = cv2.getRotationMatrix2D(centre, angle, zoom)
    matrix[:2, 2] += shift
    return matrix


def _motion(camera: Camera, side: int) -> np.ndarray:
    shift = (camera.shift[0] * side, camera.shift[1] * side)
    return _similarity_matrix(camera.angle, camera.zoom, shift, (side / 2, side / 2))


def _displacement(forgery: Forgery, target: DrawnPortrait) -> np.ndarray:
    side = target.pixels.shape[0]
    x, y = target.regions[forgery.region].mean(axis=0)
    shift = (forgery.shift[0] * side, forgery.shift[1] * side)
    return _similarity_matrix(forgery.angle, forgery.zoom, shift, (float(x), float(y)))


def _similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The least-squares rotation, scale and shift that takes points (N, 2) to points (N, 2), as a 3x3 matrix."""
    rows = np.zeros((2 * len(source), 4))
    rows[0::2] = np.stack([source[:, 0], -source[:, 1], np.ones(len(source)), np.zeros(len(source))], 1)
    rows[1::2] = np.stack([source[:, 1], source[:, 0], np.zeros(len(source)), np.ones(len(source))], 1)
    a, b, x, y = np.linalg.lstsq(rows, target.reshape(-1), rcond=None)[0]
    return np.array([[a, -b, x], [b, a, y], [0, 0, 1]])


def _resample(pixels: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    side = pixels.shape[0]
    return cv2.warpAffine(pixels, matrix[:2], (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _sharpen(pixels: np.ndarray, amount: float) -> np.ndarray:
    """Unsharp masking for a positive amount, the same blur for a negative one."""
    amount = max(amount, -1.0)
    return cv2.addWeighted(pixels, 1 + amount, cv2.GaussianBlur(pixels, (9, 9), 1.6), -amount, 0)


def _mask(forgery: Forgery, target: DrawnPortrait, motion: np.ndarray) -> np.ndarray:
    """The region's outline, deformed, where the camera sees it, with a soft edge: float32 (S, S) in [0, 1]."""
    side = target.pixels.shape[0]
    outline = target.regions[forgery.region]
    centre = outline.mean(axis=0)
    ragged = np.asarray(forgery.ragged)
    ragged = (ragged + np.roll(ragged, 1) + np.roll(ragged, -1)) / 3
    outline = centre + (outline - centre) * ragged[:, None]
    outline = outline @ motion[:2, :2].T + motion[:2, 2]
    mask = np.zeros((side, side), np.float32)
    cv2.fillPoly(mask, [np.round(outline * 16).astype(np.int32)], 1.0, cv2.LINE_8, shift=4)
    return cv2.GaussianBlur(mask, (0, 0), forgery.edge * side)


def _tone(pasted: np.ndarray, layer: np.ndarray, mask: np.ndarray, forgery: Forgery) -> np.ndarray:
    """The colour map (3, 4) of the pasted region: part of the way to what it covers in mean and deviation, then off."""
    (mean, deviation), (wanted_mean, wanted_deviation) = (_statistics(image, mask) for image in (pasted, layer))
    ratio = 1 + forgery.match * (np.clip(wanted_deviation / np.maximum(deviation, 1e-3), 0.5, 2.0) - 1)
    offset = mean + forgery.match * (wanted_mean - mean) - ratio * mean
    gain = np.asarray(forgery.gain)
    return np.column_stack([np.diag(ratio * gain), offset * gain])


def _statistics(image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each channel, weighted by the mask."""
    pixels, weight = image.reshape(-1, 3), mask.ravel() / max(float(mask.sum()), 1.0)
    mean = weight @ pixels
    return mean, np.sqrt(np.maximum(weight @ (pixels * pixels) - mean * mean, 0))


def _develop(layer: np.ndarray, camera: Camera, size: int) -> np.ndarray:
    """Scale down, add the camera's noise, and compress twice: as a still, then on another 8x8 grid as a video would."""
    small = cv2.resize(cv2.sqrt(np.clip(layer, 0, 1)) * 255, (size, size), interpolation=cv2.INTER_AREA)
    grain = np.random.default_rng(camera.noise_seed).standard_normal((size, size, 3), dtype=np.float32)
    pixels = np.clip(small + grain * camera.noise + 0.5, 0, 255).astype(np.uint8)
    pixels = _compress(pixels, camera.quality[0], (0, 0))
    return _compress(pixels, camera.quality[1], camera.offset)


def _compress(pixels: np.ndarray, quality: int, offset: tuple[int, int]) -> np.ndarray:
    top, left = offset
    padded = cv2.copyMakeBorder(pixels, top, 8, left, 8, cv2.BORDER_REPLICATE)
    _, code = cv2.imencode(".jpg", padded[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR))
    return np.ascontiguousarray(decoded[top : top + pixels.shape[0], left : left + pixels.shape[1], ::-1])
