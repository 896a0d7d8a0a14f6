"""Draws the demo's people: a head as a lit ellipsoid with painted features, in plain array arithmetic, from no assets.

A pixel of the image is carried back onto the head: (x, y) in head units, then (u, v, w) on the unit sphere after undoing
yaw and pitch. Features are soft shapes in (u, v), so they move, tilt and foreshorten with the pose; a height map bends
the normals, so that nose, lips and sockets catch the light that the shot has.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import cv2
import numpy as np

from demo_people import Colour, Identity, Shot

Field = np.ndarray  # float32 (S, S)
TEXTURE_SIZE = 256


@dataclass(frozen=True)
class Portrait:
    """A drawn face: `pixels` float32 (S, S, 3) linear RGB, and where its parts are, as (x, y) pixel coordinates.

    `regions` are closed outlines ("face", "eyes", "mouth"); `landmarks` five points: eyes, nose, corners of the mouth.
    """

    pixels: np.ndarray
    regions: dict[str, np.ndarray]
    landmarks: np.ndarray


def draw_portrait(who: Identity, shot: Shot, size: int) -> Portrait:
    """Draw one shot of one person on a (size, size) canvas."""
    head = _Head(who, shot, size)
    canvas = _wall(shot, size)
    _paint_behind(canvas, head)
    skin, height = _paint_face(head)
    _over(canvas, _shade(skin, height, head), head.inside)
    _paint_hair(canvas, head)
    _paint_glasses(canvas, head)
    tint = (1 + shot.warmth, 1.0, 1 - shot.warmth)
    canvas *= np.asarray(tint, np.float32) * shot.exposure
    regions = {name: head.project(outline) for name, outline in _outlines(who).items()}
    return Portrait(np.clip(canvas, 0, 1), regions, head.project(_landmarks(who)))


class _Head:
    """The geometry of one shot: every pixel's place on the head, and every place's pixel."""

    def __init__(self, who: Identity, shot: Shot, size: int) -> None:
        self.who, self.shot, self.size = who, shot, size
        axis = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
        x = (axis[None, :] - shot.centre_x) / shot.scale
        y = (axis[:, None] - shot.centre_y) / shot.scale
        cos, sin = math.cos(shot.roll), math.sin(shot.roll)
        self.x, self.y = x * cos + y * sin, y * cos - x * sin
        self.pixel = 2 / size / shot.scale / who.width  # one pixel's side in units of u
        self.ny = self.y / who.height
        self.nx = self.x / (who.width * self._taper(self.ny))
        self.radius2 = self.nx**2 + self.ny**2
        self.nz = np.sqrt(np.maximum(1 - self.radius2, 0))
        self.inside = self.soft(1 - np.sqrt(self.radius2))
        cos, sin = math.cos(shot.yaw), math.sin(shot.yaw)
        self.u = self.nx * cos - self.nz * sin
        depth = self.nx * sin + self.nz * cos
        cos, sin = math.cos(shot.pitch), math.sin(shot.pitch)
        self.v = self.ny * cos - depth * sin
        self.w = self.ny * sin + depth * cos

    def _taper(self, ny: np.ndarray) -> np.ndarray:
        below = np.clip(ny, 0, 1.2)
        return 1 - self.who.jaw * below * below

    def soft(self, distance: np.ndarray, blur: float = 1.0) -> np.ndarray:
        """0 to 1 across an edge, where `distance` (u units, positive inside) passes zero; `blur` in pixels."""
        return np.clip(distance / (self.pixel * blur * 1.5) + 0.5, 0, 1)

    def project(self, points: np.ndarray) -> np.ndarray:
        """(N, 2) places (u, v) on the front of the head to (N, 2) pixel coordinates (x, y)."""
        u, v = points[:, 0], points[:, 1]
        w = np.sqrt(np.maximum(1 - u * u - v * v, 0))
        cos, sin = math.cos(self.shot.pitch), math.sin(self.shot.pitch)
        ny, depth = v * cos + w * sin, w * cos - v * sin
        cos, sin = math.cos(self.shot.yaw), math.sin(self.shot.yaw)
        nx = u * cos + depth * sin
        x, y = nx * self.who.width * self._taper(ny), ny * self.who.height
        cos, sin = math.cos(self.shot.roll), math.sin(self.shot.roll)
        column = (x * cos - y * sin) * self.shot.scale + self.shot.centre_x
        row = (x * sin + y * cos) * self.shot.scale + self.shot.centre_y
        return (np.stack([column, row], axis=1) + 1) * (self.size / 2) - 0.5


def _landmarks(who: Identity) -> np.ndarray:
    corner = who.mouth_width
    return np.array(
        [
            (-who.eye_u, who.eye_v),
            (who.eye_u, who.eye_v),
            (0, who.nose_v),
            (-corner, who.mouth_v),
            (corner, who.mouth_v),
        ]
    )


def _outlines(who: Identity) -> dict[str, np.ndarray]:
    turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    across, down = np.cos(turn), np.sin(turn)
    top, bottom = who.eye_v - who.brow_gap - 0.08, who.mouth_v + 0.2
    eyes_half, mouth_half = who.eye_u + who.eye_width + 0.06, who.mouth_width + 0.10
    return {
        "face": np.stack([across * 0.66, (top + bottom) / 2 + down * (bottom - top) / 2], 1),
        "eyes": np.stack([across * eyes_half, who.eye_v - 0.06 + down * (who.brow_gap * 0.6 + 0.1)], 1),
        "mouth": np.stack([across * mouth_half, who.mouth_v + down * 0.19], 1),
    }


def _over(canvas: np.ndarray, colour: np.ndarray | Colour, alpha: Field) -> None:
    """Paint `colour` over `canvas` where `alpha` is 1, in place."""
    canvas += (np.asarray(colour, np.float32) - canvas) * alpha[..., None]


def _blob(head: _Head, u: float, v: float, width: float, height: float) -> Field:
    """A round hill of height 1 at (u, v)."""
    return np.exp(-(((head.u - u) / width) ** 2) - ((head.v - v) / height) ** 2)


@functools.cache
def texture(kind: str) -> np.ndarray:
    """A tileable float32 noise of mean 0 and deviation 1: "cloud" (blotches), "grain" (pores), "strand" (hair)."""
    rng = np.random.default_rng([20, {"cloud": 1, "grain": 2, "strand": 3}[kind]])
    spectrum = np.fft.rfft2(rng.normal(size=(TEXTURE_SIZE, TEXTURE_SIZE)))
    fy = np.abs(np.fft.fftfreq(TEXTURE_SIZE))[:, None] * TEXTURE_SIZE
    fx = np.fft.rfftfreq(TEXTURE_SIZE)[None, :] * TEXTURE_SIZE
    if kind == "cloud":
        spectrum *= 1 / (4 + np.hypot(fx, fy)) ** 1.6
    elif kind == "grain":
        spectrum *= np.exp(-((np.hypot(fx, fy) / 60) ** 2))
    else:
        spectrum *= np.exp(-((fy / 5) ** 2)) * np.exp(-((fx / 70) ** 2)) * (1 - np.exp(-((fx / 6) ** 2)))
    noise = np.fft.irfft2(spectrum, s=(TEXTURE_SIZE, TEXTURE_SIZE))
    return np.asarray((noise - noise.mean()) / noise.std(), np.float32)


def _sample(kind: str, x: np.ndarray, y: np.ndarray) -> Field:
    """The texture at (x, y), in texels; it repeats."""
    return cv2.remap(texture(kind), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


def _wall(shot: Shot, size: int) -> np.ndarray:
    """The background: out of focus, lit from the shot's side."""
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    x, y = axis[None, :], axis[:, None]
    slope = 0.5 + 0.35 * (x * shot.light[0] + y * shot.light[1])
    phase = shot.wall_phase
    if shot.wall_kind == "stripes":
        angle = phase * math.pi
        pattern = 0.5 + 0.25 * np.sin((x * math.cos(angle) + y * math.sin(angle)) * (6 + 10 * phase) + 7 * phase)
    elif shot.wall_kind == "window":
        pattern = np.clip((x - (phase * 2 - 1)) * 9 + 0.5, 0, 1) * np.clip((0.8 - y) * 6, 0, 1)
    elif shot.wall_kind == "bokeh":
        pattern = np.clip(_sample("cloud", (x * 30 + y * 0) + 256 * phase, (y * 30 + x * 0) + 99 * phase) * 0.35 + 0.4, 0, 1)
    else:
        pattern = 0.5 + 0.4 * y * (1 if phase > 0.5 else -1) + 0 * x
    blend = np.broadcast_to(pattern, (size, size))[..., None].astype(np.float32)
    wall = np.asarray(shot.wall, np.float32) * (1 - blend) + np.asarray(shot.wall_other, np.float32) * blend
    return np.ascontiguousarray(wall * (0.45 + slope[..., None]) * 0.75, dtype=np.float32)


def _paint_behind(canvas: np.ndarray, head: _Head) -> None:
    """What the head stands in front of: long hair, neck, shoulders, ears."""
    who, shot = head.who, head.shot
    glow = shot.ambient + (1 - shot.ambient) * max(shot.light[2], 0)
    side = 1 + 0.35 * shot.light[0] * np.clip(head.x / who.width, -1, 1)
    if who.hair_style in ("long", "bob"):
        length = 1.5 if who.hair_style == "long" else 0.72
        width = who.width * (1.12 + who.hair_volume)
        flare = 1 + 0.12 * np.clip(head.y, 0, 2)
        distance = np.minimum(1 - np.hypot(head.x / width / flare, np.minimum(head.y, 0) / who.height), length - head.y)
        strands = _strands(head)
        _over(canvas, _hair_colour(who) * (0.75 * glow * side * strands)[..., None], head.soft(distance, 2))
    neck = np.minimum(0.36 + 0.05 * np.clip(head.y, 0, 2) - np.abs(head.x), head.y - 0.3)
    shade = 0.62 * glow * side * np.clip((head.y - 0.5) * 1.2, 0.45, 1)
    skin = np.asarray(who.skin, np.float32)
    _over(canvas, skin * shade[..., None], head.soft(neck))
    shoulders = head.y - 1.02 - 0.35 * np.abs(head.x) ** 1.6 - 0.25 * np.clip(0.32 - np.abs(head.x), 0, 1)
    _over(canvas, np.asarray(shot.cloth, np.float32) * (0.9 * glow * side)[..., None], head.soft(shoulders))
    if who.hair_style not in ("long", "bob"):
        for hand in (-1, 1):
            ear_x = hand * who.width * (0.99 - 0.14 * hand * shot.yaw)
            distance = 1 - np.hypot((head.x - ear_x) / 0.10, (head.y - 0.02) / 0.19)
            inner = np.clip(1.15 - 0.5 * np.exp(-((head.x - ear_x) / 0.04) ** 2 - ((head.y - 0.02) / 0.09) ** 2), 0, 1)
            _over(canvas, skin * (0.75 * glow * side * inner)[..., None], head.soft(distance * 0.12))


def _shade(albedo: np.ndarray, height: Field, head: _Head) -> np.ndarray:
    """Light the head: soft diffuse, sky, and a highlight, on normals bent by the height map."""
    shot = head.shot
    slope = 0.5 / (head.pixel * 2)
    bend_x = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3, scale=slope / 4)
    bend_y = cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3, scale=slope / 4)
    nx, ny, nz = head.nx * 0.92 - bend_x, head.ny * 0.92 - bend_y, head.nz + 0.12
    norm = 1 / np.sqrt(nx * nx + ny * ny + nz * nz)
    lx, ly, lz = shot.light
    facing = (nx * lx + ny * ly + nz * lz) * norm
    diffuse = np.clip(facing * 0.85 + 0.15, 0, None)
    half = math.sqrt(2 + 2 * lz)
    gloss = np.clip((nx * lx + ny * ly + nz * (lz + 1)) * (norm / half), 0, 1) ** 24
    sky = shot.ambient * (0.85 - 0.25 * ny * norm)
    light = (1 - shot.ambient) * 1.25 * diffuse + sky
    return albedo * light[..., None] + (shot.shine * gloss)[..., None]


def _paint_face(head: _Head) -> tuple[np.ndarray, Field]:
    """The face's colour before light, and the height map that bends its normals."""
    who = head.who
    skin = np.empty((head.size, head.size, 3), np.float32)
    skin[:] = who.skin
    grain_x, grain_y = head.u * 60 + who.grain_u, head.v * 75 + who.grain_v
    tone = 1 + who.mottle * (0.05 * _sample("cloud", grain_x, grain_y) + 0.035 * _sample("grain", grain_x * 2, grain_y * 2))
    skin *= tone[..., None]
    if who.freckles:
        spots = np.clip(_sample("grain", grain_x * 1.7 + 31, grain_y * 1.7) - 1.4, 0, 1) * np.clip(0.55 - np.abs(head.v - 0.12), 0, 0.3)
        skin *= 1 - (who.freckles * 1.6 * spots)[..., None] * np.asarray((0.5, 0.8, 0.9), np.float32)
    red = 0.25 * who.blush * (_blob(head, -0.5, 0.22, 0.22, 0.17) + _blob(head, 0.5, 0.22, 0.22, 0.17))
    red += 0.2 * who.blush * _blob(head, 0, who.nose_v, 0.14, 0.12)
    skin *= 1 - red[..., None] * np.asarray((0.0, 0.6, 0.55), np.float32)
    height = _relief(head)
    _paint_beard(skin, head)
    height += _paint_mouth(skin, head)
    for hand in (-1, 1):
        _paint_eye(skin, head, hand)
    nostril = _blob(head, -0.45 * who.nose_width, who.nose_v + 0.05, 0.045, 0.026)
    nostril += _blob(head, 0.45 * who.nose_width, who.nose_v + 0.05, 0.045, 0.026)
    skin *= 1 - 0.7 * np.clip(nostril, 0, 1)[..., None]
    return skin, height


def _relief(head: _Head) -> Field:
    who = head.who
    ridge_v = (who.eye_v + who.nose_v) / 2
    height = 0.07 * who.nose_bulge * _blob(head, 0, ridge_v + 0.03, who.nose_width * 0.55, (who.nose_v - who.eye_v) * 0.6)
    height += 0.08 * who.nose_bulge * _blob(head, 0, who.nose_v - 0.01, who.nose_width * 0.7, 0.09)
    for hand in (-1, 1):
        height += 0.028 * _blob(head, hand * who.nose_width * 0.75, who.nose_v + 0.02, 0.06, 0.05)
        height -= 0.050 * _blob(head, hand * (who.eye_u - 0.05), who.eye_v - 0.02, 0.22, 0.13)
        height += 0.030 * _blob(head, hand * 0.5, 0.2, 0.2, 0.16)
        height -= 0.020 * _blob(head, hand * (who.mouth_width + 0.1), who.mouth_v - 0.05, 0.05, 0.12)
    height += 0.04 * _blob(head, 0, 0.82, 0.2, 0.12) - 0.03 * _blob(head, 0, who.mouth_v + 0.15, 0.2, 0.05)
    return height


def _paint_eye(skin: np.ndarray, head: _Head, hand: int) -> None:
    who, shot = head.who, head.shot
    du = (head.u - hand * who.eye_u) * hand  # outward
    dv = head.v - who.eye_v + who.eye_tilt * du * 0.5
    along = du / who.eye_width
    bow = 1 - along * along
    upper = dv + who.eye_height * shot.eye_open * bow
    lower = who.eye_height * 0.65 * bow - dv
    opening = head.soft(np.minimum(upper, lower))
    white = np.asarray((0.80, 0.77, 0.74), np.float32) * np.clip(0.45 + upper / who.eye_height * 0.5, 0.4, 1)[..., None]
    _over(skin, white, opening)
    gaze_u, gaze_v = hand * shot.gaze_u * 0.06, shot.gaze_v * 0.04 - 0.008
    distance = np.hypot(du - gaze_u, (dv - gaze_v) * 1.25)
    radius = who.eye_height * 1.02
    iris = np.asarray(who.iris, np.float32) * (0.6 + 0.7 * np.clip(distance / radius, 0, 1) ** 2)[..., None]
    _over(skin, iris, opening * head.soft(radius - distance))
    _over(skin, (0.005, 0.005, 0.006), opening * head.soft(radius * 0.45 - distance))
    glint_u, glint_v = hand * shot.light[0] * radius * 0.5, shot.light[1] * radius * 0.5
    glint = np.hypot(du - gaze_u - glint_u, dv - gaze_v - glint_v - 0.01)
    _over(skin, (1.6, 1.6, 1.6), opening * head.soft(radius * 0.28 - glint))
    near = np.abs(along) < 1.15
    lid = head.soft(0.020 - np.abs(upper), 1.2) * near
    _over(skin, (0.02, 0.014, 0.012), 0.9 * lid)
    crease = head.soft(0.010 - np.abs(upper + 0.055), 1.5) * near
    skin *= 1 - 0.35 * crease[..., None]
    arc = head.v - who.eye_v + who.brow_gap + who.brow_arch * (1 - (along * 0.8 - 0.2) ** 2) - 0.03 + 0.02 * along
    thick = who.brow_thick * np.clip(1.25 - 0.45 * along, 0.3, 1.4)
    brow = head.soft(thick - np.abs(arc), 2) * head.soft(1.35 * who.eye_width - np.abs(du - 0.02), 4)
    _over(skin, _hair_colour(who) * 0.55, brow * 0.85)


def _paint_mouth(skin: np.ndarray, head: _Head) -> Field:
    """Paint lips, teeth and the gap between; gives their relief."""
    who, shot = head.who, head.shot
    half = who.mouth_width * (1 + 0.12 * shot.smile)
    along = head.u / half
    bow = np.clip(1 - along * along, 0, 1)
    line = head.v - who.mouth_v + 0.07 * shot.smile * (along * along - 0.35)
    cupid = 1 - 0.25 * np.exp(-((along / 0.16) ** 2))
    upper = who.lip_upper * bow**0.7 * cupid
    lower = who.lip_lower * bow**0.6
    gap = shot.mouth_open * bow
    between = np.abs(along) < 1
    lips = head.soft(np.minimum(line + upper + gap * 0.4, lower + gap - line), 1.3) * between
    base = np.asarray(who.skin, np.float32)
    red = base * (1 - who.lip_red * np.asarray((0.25, 0.62, 0.52), np.float32))
    _over(skin, red, lips)
    _over(skin, red * 0.25, head.soft(0.012 - np.abs(line - gap * 0.3), 1.5) * lips)
    if shot.mouth_open > 0.01:
        inner = head.soft(np.minimum(line + gap * 0.4, gap - line)) * between
        _over(skin, (0.05, 0.012, 0.012), inner)
        _over(skin, (0.72, 0.69, 0.64), inner * head.soft(np.minimum(gap * 0.25 - line, 0.8 - np.abs(along))))
    mid = (lower + gap) * 0.55
    return 0.02 * bow * np.exp(-(((line - mid) / 0.05) ** 2)) + 0.012 * bow * np.exp(-(((line + upper * 0.5) / 0.03) ** 2))


def _paint_beard(skin: np.ndarray, head: _Head) -> None:
    who = head.who
    if not who.beard:
        return
    jaw = head.soft(np.maximum(head.v - 0.30 - 0.25 * (1 - np.abs(head.u)), np.abs(head.u) - 0.83), 9)
    lip = head.soft(0.05 - np.abs(head.v - who.mouth_v + 0.12 - 0.1 * head.u**2), 4) * head.soft(0.36 - np.abs(head.u), 6)
    stubble = np.clip(0.8 + 0.35 * _sample("grain", head.u * 150 + who.grain_u, head.v * 150), 0.2, 1)
    _over(skin, _hair_colour(who) * 0.8, np.clip(jaw + lip, 0, 1) * stubble * who.beard * 0.9)


def _hair_colour(who: Identity) -> np.ndarray:
    return np.asarray(who.hair, np.float32)


def _strands(head: _Head) -> Field:
    """Brightness along the hair: fine strands that fall from the crown."""
    fall = np.arctan2(head.x - 0.15 * head.who.parting, head.y + head.who.height + 0.4)
    curl = 0.0
    if head.who.hair_style == "curly":
        return np.clip(1 + 0.35 * _sample("cloud", head.x * 190, head.y * 190), 0.3, 1.8)
    return np.clip(1 + 0.22 * _sample("strand", fall * 150 + head.who.grain_u + curl, np.hypot(head.x, head.y) * 40), 0.3, 1.8)


def _paint_hair(canvas: np.ndarray, head: _Head) -> None:
    """The hair in front: a cap over the skull that ends at the hairline."""
    who, shot = head.who, head.shot
    volume = {"curly": 0.22, "shaved": 0.012}.get(who.hair_style, who.hair_volume)
    part = np.abs(head.u - who.parting * 0.6)
    if who.hair_style in ("bob",):
        line = -0.42 + 0.25 * head.u**2
    elif who.hair_style == "curly":
        line = -who.hairline + 0.5 * head.u**2 + 0.06 * _sample("cloud", head.x * 90, head.y * 90)
    else:
        line = -who.hairline - 0.12 * np.exp(-((part / 0.25) ** 2)) + 0.42 * head.u**2
    burns = np.clip((np.abs(head.u) - 0.86) * 8, 0, 1) * (0.75 if who.hair_style in ("long", "bob") else 0.42)
    ragged = 0.02 * _sample("strand", head.u * 120, head.v * 20)
    front = np.maximum(line + burns + ragged - head.v, -(head.w + 0.05))
    cap = 1 + volume * np.clip(1.2 - head.ny, 0, 1.3) - np.sqrt(head.radius2)
    low = 0.75 if who.hair_style in ("long", "bob") else 0.15
    distance = np.minimum(np.minimum(front, cap), low - head.ny + 0.3 * (head.radius2 < 1))
    alpha = head.soft(distance, 2.0)
    lx, ly, _ = shot.light
    facing = np.clip(0.55 + 0.4 * (head.nx * lx + head.ny * ly) + 0.15 * head.nz, 0.15, 1.2)
    band = 0.35 * np.exp(-(((head.ny + 0.72 - 0.25 * ly - 0.2 * head.nx * lx) / 0.14) ** 2))
    strands = _strands(head)
    light = (shot.ambient + (1 - shot.ambient) * facing) * strands + band * np.clip(strands - 0.7, 0, 1)
    _over(canvas, _hair_colour(who) * light[..., None], alpha * (0.75 if who.hair_style == "shaved" else 1.0))
    if who.hair_style == "bun":
        x, y = head.x - 0.25 * shot.yaw, head.y + who.height * 1.12
        _over(canvas, _hair_colour(who) * (light * 0.9)[..., None], head.soft((1 - np.hypot(x / 0.3, y / 0.26)) * 0.3, 2))


def _paint_glasses(canvas: np.ndarray, head: _Head) -> None:
    who = head.who
    if who.glasses == "none":
        return
    frame = np.zeros_like(head.u)
    for hand in (-1, 1):
        du, dv = head.u - hand * who.eye_u, head.v - who.eye_v - 0.03
        if who.glasses == "round":
            ring = np.abs(np.hypot(du, dv * 1.25) - 0.26)
        else:
            ring = np.abs(np.maximum(np.abs(du) - 0.06, np.abs(dv * 1.4) - 0.02) - 0.20)
        frame = np.maximum(frame, head.soft(0.022 - ring, 1.2))
    bridge = head.soft(0.018 - np.abs(head.v - who.eye_v + 0.02), 1.2) * (np.abs(head.u) < who.eye_u - 0.22)
    _over(canvas, (0.02, 0.018, 0.02), np.maximum(frame, bridge) * (head.w > 0) * head.inside * 0.92)
