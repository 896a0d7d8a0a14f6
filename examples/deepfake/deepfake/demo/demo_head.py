"""The drawing ground of the demo: a head's geometry in one shot, soft shapes, painting, and textures made of noise.

A pixel of the image is carried back onto the head: (x, y) in head units, then (u, v, w) on the unit sphere after
undoing yaw and pitch. Features are soft shapes in (u, v), so they move, tilt and foreshorten with the pose.
"""

from __future__ import annotations

import copy
import functools
import math

import numpy as np

from .demo_people import Colour, Identity, Shot

Field = np.ndarray  # float32 (H, W)
Canvas = np.ndarray  # float32 (3, H, W), linear RGB: planes, because arithmetic on them is several times faster
TEXTURE_SIZE = 256


class Head:
    """The geometry of one shot: every pixel's place on the head, and every place's pixel.

    Fields: `x, y` in head units, upright; `nx, ny, nz` the sphere's normal in the image; `u, v, w` the place on the
    face (u to the right, v down, w outward); `inside` 1 on the head; `pixel` a pixel's side in units of u.
    """

    def __init__(self, who: Identity, shot: Shot, size: int) -> None:
        self.who, self.shot, self.size = who, shot, size
        self.window = (slice(0, size), slice(0, size))
        axis = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
        x = (axis[None, :] - shot.centre_x) / shot.scale
        y = (axis[:, None] - shot.centre_y) / shot.scale
        self.x, self.y = _turn(x, y, -shot.roll)
        self.pixel = 2 / size / shot.scale / who.width
        self.ny = self.y / who.height
        self.nx = self.x / (who.width * self._taper(self.ny))
        self.radius = length(self.nx, self.ny)
        self.nz = np.sqrt(np.maximum(1 - self.radius**2, 0))
        self.inside = self.soft(1 - self.radius)
        self.u, depth = _turn(self.nx, self.nz, shot.yaw)
        self.v, self.w = _turn(self.ny, depth, shot.pitch)

    def _taper(self, ny: np.ndarray) -> np.ndarray:
        below = np.clip(ny, 0, 1.2)
        return 1 - self.who.jaw * below * below

    def part(self, u: tuple[float, float], v: tuple[float, float]) -> Head:
        """The same head, its fields cut to the `window` of pixels that shows this range of u and v."""
        edge = np.linspace(0, 1, 5)
        sides = [(u[0] + (u[1] - u[0]) * a, v[0] + (v[1] - v[0]) * b) for a in edge for b in edge]
        points = self.project(np.array(sides))
        low = np.clip(np.floor(points.min(axis=0)).astype(int) - 2, 0, self.size - 1)
        high = np.clip(np.ceil(points.max(axis=0)).astype(int) + 3, low + 1, self.size)
        cut = copy.copy(self)
        cut.window = (slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0])))
        for name in ("x", "y", "nx", "ny", "nz", "radius", "u", "v", "w", "inside"):
            setattr(cut, name, getattr(self, name)[cut.window])
        return cut

    def project(self, points: np.ndarray) -> np.ndarray:
        """(N, 2) places (u, v) on the front of the head to (N, 2) pixel coordinates (x, y)."""
        u, v = points[:, 0], points[:, 1]
        w = np.sqrt(np.maximum(1 - u * u - v * v, 0))
        ny, depth = _turn(v, w, -self.shot.pitch)
        nx, _ = _turn(u, depth, -self.shot.yaw)
        x, y = _turn(nx * self.who.width * self._taper(ny), ny * self.who.height, self.shot.roll)
        column, row = x * self.shot.scale + self.shot.centre_x, y * self.shot.scale + self.shot.centre_y
        return (np.stack([column, row], axis=1) + 1) * (self.size / 2) - 0.5

    def soft(self, distance: np.ndarray, blur: float = 1.0) -> Field:
        """0 to 1 across an edge, where `distance` (u units, positive inside) passes zero; `blur` in pixels."""
        return np.clip(distance * (1 / (self.pixel * blur * 1.5)) + 0.5, 0, 1)

    def blob(self, u: float, v: float, width: float, height: float) -> Field:
        """A round hill of height 1 at (u, v)."""
        across, down = (self.u - u) * (1 / width), (self.v - v) * (1 / height)
        return np.exp(-(across * across + down * down))


def length(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The length of (a, b): np.hypot without its care for overflow, at a tenth of its time."""
    return np.sqrt(a * a + b * b)


def _turn(a: np.ndarray, b: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    cos, sin = math.cos(angle), math.sin(angle)
    return a * cos - b * sin, a * sin + b * cos


def plane(colour: Colour | np.ndarray) -> np.ndarray:
    """A colour as float32 (3, 1, 1), to be spread over a canvas."""
    return np.asarray(colour, np.float32).reshape(3, 1, 1)


def paint(canvas: Canvas, colour: np.ndarray, alpha: Field) -> None:
    """Lay `colour` (3, 1, 1) or (3, H, W) over `canvas` where `alpha` (H, W) is 1, in place."""
    canvas += (colour - canvas) * alpha


@functools.cache
def texture(kind: str) -> np.ndarray:
    """A tileable noise of mean 0 and deviation 1: "cloud" (blotches), "grain" (pores) or "strand" (hair)."""
    rng = np.random.default_rng([20, ("cloud", "grain", "strand").index(kind)])
    spectrum = np.fft.rfft2(rng.normal(size=(TEXTURE_SIZE, TEXTURE_SIZE)))
    down = np.abs(np.fft.fftfreq(TEXTURE_SIZE))[:, None] * TEXTURE_SIZE
    across = np.fft.rfftfreq(TEXTURE_SIZE)[None, :] * TEXTURE_SIZE
    if kind == "cloud":
        spectrum *= 1 / (4 + np.hypot(across, down)) ** 1.6
    elif kind == "grain":
        spectrum *= np.exp(-((np.hypot(across, down) / 60) ** 2))
    else:
        spectrum *= np.exp(-((down / 5) ** 2) - (across / 70) ** 2) * (1 - np.exp(-((across / 6) ** 2)))
    noise = np.fft.irfft2(spectrum, s=(TEXTURE_SIZE, TEXTURE_SIZE))
    return np.asarray((noise - noise.mean()) / noise.std(), np.float32)


def sample(kind: str, x: np.ndarray, y: np.ndarray) -> Field:
    """The texture at (x, y), in texels, to the nearest one; it repeats without a seam."""
    column, row = (np.floor(place).astype(np.int32) & (TEXTURE_SIZE - 1) for place in (x, y))
    return texture(kind).ravel().take(row * TEXTURE_SIZE + column)
