"""Draws the demo's people: a head as a lit ellipsoid with painted features, in plain array arithmetic, from no assets.

The face is painted unlit beside a height map; the map bends the head's normals, so that nose, lips and eye sockets
catch the light of the shot. Behind it stand wall, hair, neck and shoulders; over it lie hair and glasses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from .demo_features import paint_features
from .demo_head import Canvas, Field, Head, length, paint, plane, sample
from .demo_people import Identity, Shot


@dataclass(frozen=True)
class DrawnPortrait:
    """A drawn face: `pixels` float32 (S, S, 3) linear RGB, and where its parts are, as (x, y) pixel coordinates.

    `regions` are closed outlines ("face", "eyes", "mouth"); `landmarks` five points: eyes, nose, corners of the mouth.
    """

    pixels: np.ndarray
    regions: dict[str, np.ndarray]
    landmarks: np.ndarray


def draw_portrait(who: Identity, shot: Shot, size: int) -> DrawnPortrait:
    """Draw one shot of one person on a (size, size) canvas."""
    head = Head(who, shot, size)
    canvas = _wall(shot, size)
    strands = _strands(head)
    _paint_behind(canvas, head, strands)
    skin, height = paint_features(head)
    paint(canvas, _light(skin, height, head), head.inside)
    _paint_hair(canvas, head, strands)
    _paint_glasses(canvas, head)
    canvas *= plane((1 + shot.warmth, 1.0, 1 - shot.warmth)) * shot.exposure
    regions = {name: head.project(outline) for name, outline in _outlines(who).items()}
    pixels = cv2.merge(list(np.clip(canvas, 0, 1)))
    return DrawnPortrait(pixels, regions, head.project(_landmarks(who)))


def _landmarks(who: Identity) -> np.ndarray:
    eyes, mouth = (who.eye_u, who.eye_v), (who.mouth_width, who.mouth_v)
    return np.array([(-eyes[0], eyes[1]), eyes, (0, who.nose_v), (-mouth[0], mouth[1]), mouth])


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


def _wall(shot: Shot, size: int) -> Canvas:
    """The background: out of focus, lit from the shot's side."""
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    x, y = np.broadcast_to(axis[None, :], (size, size)), np.broadcast_to(axis[:, None], (size, size))
    phase = shot.wall_phase
    blend: Field
    if shot.wall_kind == "stripes":
        along = x * math.cos(phase * math.pi) + y * math.sin(phase * math.pi)
        blend = 0.5 + 0.25 * np.sin(along * (6 + 10 * phase) + 7 * phase)
    elif shot.wall_kind == "window":
        blend = np.clip((x - (phase * 2 - 1)) * 9 + 0.5, 0, 1) * np.clip((0.8 - y) * 6, 0, 1)
    elif shot.wall_kind == "leaves":
        cloud = sample("cloud", x * 30 + 256 * phase, y * 30 + 99 * phase)
        blend = cv2.GaussianBlur(np.clip(cloud * 0.35 + 0.4, 0, 1), (0, 0), size / 60)
    else:
        blend = 0.5 + 0.4 * y * (1 if phase > 0.5 else -1)
    light = 0.71 + 0.26 * (x * shot.light[0] + y * shot.light[1])
    wall = plane(shot.wall) + (plane(shot.wall_other) - plane(shot.wall)) * blend
    return wall * light


def _paint_behind(canvas: Canvas, head: Head, strands: Field) -> None:
    """What the head stands in front of: long hair, neck, shoulders, ears."""
    who, shot = head.who, head.shot
    below = np.clip(head.y, 0, 2)
    glow = shot.ambient + (1 - shot.ambient) * max(shot.light[2], 0)
    lit = glow * (1 + 0.35 * shot.light[0] * np.clip(head.x * (1 / who.width), -1, 1))
    skin = plane(who.skin)
    if _long(who):
        end = 1.5 if who.hair_style == "long" else 0.72
        width = who.width * (1.12 + who.hair_volume) * (1 + 0.12 * below)
        reach = 1 - length(head.x / width, np.minimum(head.y, 0) * (1 / who.height))
        paint(canvas, plane(who.hair) * (0.75 * lit * strands), head.soft(np.minimum(reach, end - head.y), 2))
    neck = np.minimum(0.31 + 0.10 * np.clip(head.y - 0.7, 0, 2) - np.abs(head.x), head.y - 0.3)
    paint(canvas, skin * (0.62 * lit * np.clip((head.y - 0.5) * 1.2, 0.45, 1)), head.soft(neck))
    sides = np.abs(head.x)
    shoulders = head.y - 1.0 - 0.25 * sides * sides - 0.5 * np.clip(0.34 - sides, 0, 1)
    paint(canvas, plane(shot.cloth) * (0.9 * lit), head.soft(shoulders))
    if not _long(who):
        for hand in (-1, 1):
            x = (head.x - hand * who.width * (0.99 - 0.14 * hand * shot.yaw)) * 10
            y = (head.y - 0.02) * (1 / 0.19)
            hollow = 1.1 - 0.5 * np.exp(-(x * x + y * y) * 5)
            paint(canvas, skin * (0.75 * lit * hollow), head.soft((1 - length(x, y)) * 0.12))


def _light(skin: Canvas, height: Field, head: Head) -> Canvas:
    """Light the head: soft diffuse, sky, and a highlight, on normals bent by the height map."""
    shot = head.shot
    scale = 1 / (16 * head.pixel)
    nx = head.nx * 0.92 - cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3, scale=scale)
    ny = head.ny * 0.92 - cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3, scale=scale)
    nz = head.nz + 0.12
    norm = 1 / np.sqrt(nx * nx + ny * ny + nz * nz)
    x, y, z = shot.light
    facing = (nx * x + ny * y + nz * z) * norm
    gloss = np.clip((facing + nz * norm) * (1 / math.sqrt(2 + 2 * z)), 0, 1)
    gloss = gloss * gloss * gloss
    gloss = gloss * gloss
    gloss = gloss * gloss
    diffuse = np.maximum(facing * 0.85 + 0.15, 0)
    sky = shot.ambient * (0.85 - 0.25 * ny * norm)
    return skin * ((1 - shot.ambient) * 1.25 * diffuse + sky) + shot.shine * gloss * gloss


def _long(who: Identity) -> bool:
    return who.hair_style in ("long", "bob")


def _strands(head: Head) -> Field:
    """Brightness along the hair: strands that fall from the crown, or curls."""
    if head.who.hair_style == "curly":
        return np.clip(1 + 0.35 * sample("cloud", head.x * 190, head.y * 190), 0.3, 1.8)
    fall = np.arctan2(head.x - 0.15 * head.who.parting, head.y + (head.who.height + 0.4))
    along = length(head.x, head.y) * 40
    return np.clip(1 + 0.22 * sample("strand", fall * 150 + head.who.grain_u, along), 0.3, 1.8)


def _paint_hair(canvas: Canvas, head: Head, strands: Field) -> None:
    """The hair in front: a cap over the skull that ends at the hairline, and the shadow it casts."""
    who, shot = head.who, head.shot
    volume = {"curly": 0.22, "shaved": 0.012}.get(who.hair_style, who.hair_volume)
    curve = head.u * head.u
    if who.hair_style == "bob":
        line = -0.42 + 0.25 * curve
    elif who.hair_style == "curly":
        line = -who.hairline + 0.5 * curve + 0.06 * sample("cloud", head.x * 90, head.y * 90)
    else:
        part = (head.u - who.parting * 0.6) * 4
        line = -who.hairline - 0.12 * np.exp(-part * part) + 0.42 * curve
    line = line + np.clip((np.abs(head.u) - 0.86) * 8, 0, 1) * (0.75 if _long(who) else 0.42)
    line += 0.02 * sample("strand", head.u * 120, head.v * 20)
    front = np.maximum(line - head.v, -(head.w + 0.05))
    cap = 1 + volume * np.clip(1.2 - head.ny, 0, 1.3) - head.radius
    low = (0.75 if _long(who) else 0.15) - head.ny + 0.3 * (head.radius < 1)
    shadow = np.clip(1 + (front - 0.02) * 8, 0, 1) * head.inside
    canvas *= 1 - 0.3 * shadow
    facing = np.clip(0.55 + 0.4 * (head.nx * shot.light[0] + head.ny * shot.light[1]) + 0.15 * head.nz, 0.15, 1.2)
    ring = (head.ny + (0.72 - 0.25 * shot.light[1]) - 0.2 * shot.light[0] * head.nx) * 7
    light = (shot.ambient + (1 - shot.ambient) * facing) * strands
    light += 0.35 * np.exp(-ring * ring) * np.clip(strands - 0.7, 0, 1)
    alpha = head.soft(np.minimum(np.minimum(front, cap), low), 2)
    paint(canvas, plane(who.hair) * light, alpha * (0.75 if who.hair_style == "shaved" else 1.0))
    if who.hair_style == "bun":
        x, y = head.x - 0.25 * shot.yaw, head.y + who.height * 1.12
        paint(canvas, plane(who.hair) * (light * 0.9), head.soft((1 - length(x / 0.3, y / 0.26)) * 0.3, 2))


def _paint_glasses(canvas: Canvas, whole: Head) -> None:
    who = whole.who
    if who.glasses == "none":
        return
    head = whole.part((-0.85, 0.85), (who.eye_v - 0.3, who.eye_v + 0.36))
    frame = head.soft(0.018 - np.abs(head.v - who.eye_v + 0.02), 1.2) * (np.abs(head.u) < who.eye_u - 0.22)
    for hand in (-1, 1):
        du, dv = head.u - hand * who.eye_u, head.v - who.eye_v - 0.03
        if who.glasses == "round":
            ring = length(du, dv * 1.25) - 0.26
        else:
            ring = np.maximum(np.abs(du) - 0.26, np.abs(dv * 1.4) - 0.22)
        frame = np.maximum(frame, head.soft(0.022 - np.abs(ring), 1.2))
    paint(canvas[(slice(None), *head.window)], plane((0.02, 0.018, 0.02)), frame * (head.w > 0) * head.inside * 0.92)
