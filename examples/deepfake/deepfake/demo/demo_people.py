"""Samples who is drawn in the demo and how: identities (what stays) and shots (pose, light, mood, place, camera)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Colour = tuple[float, float, float]  # linear RGB, 0 to 1

# sRGB bytes, from light to dark; skin lies between neighbours, other colours are picked and varied.
SKIN = ((250, 219, 196), (240, 196, 165), (224, 172, 135), (198, 140, 100), (156, 102, 68), (112, 70, 48), (80, 50, 38))
HAIR = (
    (35, 28, 26),
    (60, 40, 30),
    (95, 60, 38),
    (140, 88, 48),
    (196, 150, 88),
    (226, 198, 140),
    (150, 60, 36),
    (172, 168, 160),
)
IRIS = ((82, 54, 32), (110, 74, 40), (104, 112, 60), (84, 124, 140), (96, 140, 176), (110, 118, 122))
WALL = (
    (92, 122, 140),
    (190, 178, 160),
    (120, 140, 110),
    (176, 128, 108),
    (72, 78, 98),
    (214, 204, 190),
    (150, 120, 150),
)
CLOTH = (
    (42, 52, 78),
    (150, 50, 54),
    (220, 214, 204),
    (60, 96, 84),
    (210, 160, 70),
    (90, 90, 96),
    (120, 80, 130),
    (30, 30, 34),
)


@dataclass(frozen=True)
class Identity:
    """What a person keeps from shot to shot. Lengths are in head half-widths (u) and half-heights (v)."""

    width: float
    height: float
    jaw: float
    skin: Colour
    eye_u: float
    eye_v: float
    eye_width: float
    eye_height: float
    eye_tilt: float
    iris: Colour
    brow_gap: float
    brow_thick: float
    brow_arch: float
    nose_v: float
    nose_width: float
    nose_bulge: float
    mouth_v: float
    mouth_width: float
    lip_upper: float
    lip_lower: float
    lip_red: float
    hair: Colour
    hair_style: str
    hairline: float
    parting: float
    hair_volume: float
    beard: float
    freckles: float
    blush: float
    mottle: float
    glasses: str
    grain_u: float
    grain_v: float


@dataclass(frozen=True)
class Shot:
    """What changes from shot to shot of one person. Angles in radians, image lengths in half image sides."""

    yaw: float
    pitch: float
    roll: float
    scale: float
    centre_x: float
    centre_y: float
    light: tuple[float, float, float]
    ambient: float
    warmth: float
    exposure: float
    shine: float
    smile: float
    mouth_open: float
    gaze_u: float
    gaze_v: float
    eye_open: float
    wall: Colour
    wall_other: Colour
    wall_kind: str
    wall_phase: float
    cloth: Colour


def linear(colour: tuple[int, ...]) -> Colour:
    """sRGB bytes as linear RGB, with gamma 2 for the display's curve."""
    red, green, blue = ((value / 255) ** 2 for value in colour)
    return red, green, blue


def _pick(rng: np.random.Generator, palette: tuple[tuple[int, ...], ...], spread: float = 0.15) -> Colour:
    base = linear(palette[int(rng.integers(len(palette)))])
    red, green, blue = (min(value * float(gain), 1.0) for value, gain in zip(base, _gains(rng, spread), strict=True))
    return red, green, blue


def _gains(rng: np.random.Generator, spread: float) -> np.ndarray:
    return np.exp(rng.normal(0, spread) + rng.normal(0, spread / 3, size=3))


def _between(rng: np.random.Generator, palette: tuple[tuple[int, ...], ...]) -> Colour:
    place = rng.uniform(0, len(palette) - 1.001)
    first, part = int(place), place % 1
    low, high = linear(palette[first]), linear(palette[first + 1])
    tint = np.exp(rng.normal(0, 0.05, size=3))
    red, green, blue = (
        min((1 - part) * a + part * b, 1.0) * float(gain) for a, b, gain in zip(low, high, tint, strict=True)
    )
    return red, green, blue


def sample_identity(rng: np.random.Generator) -> Identity:
    """A person drawn at random."""
    style = str(rng.choice(["short", "short", "bob", "long", "long", "curly", "bun", "shaved"]))
    skin = _between(rng, SKIN)
    hair = _pick(rng, HAIR[:3] if sum(skin) < 0.6 and rng.uniform() < 0.8 else HAIR, 0.2)
    bearded = style in ("short", "curly", "shaved") and rng.uniform() < 0.45
    return Identity(
        width=rng.uniform(0.60, 0.70),
        height=rng.uniform(0.80, 0.92),
        jaw=rng.uniform(0.10, 0.34),
        skin=skin,
        eye_u=rng.uniform(0.35, 0.43),
        eye_v=rng.uniform(-0.16, -0.04),
        eye_width=rng.uniform(0.16, 0.21),
        eye_height=rng.uniform(0.060, 0.100),
        eye_tilt=rng.uniform(-0.25, 0.15),
        iris=_pick(rng, IRIS),
        brow_gap=rng.uniform(0.16, 0.23),
        brow_thick=rng.uniform(0.020, 0.050),
        brow_arch=rng.uniform(0.02, 0.08),
        nose_v=rng.uniform(0.18, 0.29),
        nose_width=rng.uniform(0.13, 0.20),
        nose_bulge=rng.uniform(0.6, 1.3),
        mouth_v=rng.uniform(0.46, 0.55),
        mouth_width=rng.uniform(0.25, 0.36),
        lip_upper=rng.uniform(0.030, 0.060),
        lip_lower=rng.uniform(0.045, 0.085),
        lip_red=rng.uniform(0.15, 0.75) * (0.5 if bearded else 1.0),
        hair=hair,
        hair_style=style,
        hairline=rng.uniform(0.50, 0.66),
        parting=rng.uniform(-0.6, 0.6),
        hair_volume=rng.uniform(0.05, 0.16),
        beard=rng.uniform(0.3, 1.0) if bearded else 0.0,
        freckles=rng.uniform(0.3, 1.0) if rng.uniform() < 0.25 else 0.0,
        blush=rng.uniform(0.0, 0.5),
        mottle=rng.uniform(0.3, 1.0),
        glasses=str(rng.choice(["none"] * 8 + ["round", "square"])),
        grain_u=rng.uniform(0, 256),
        grain_v=rng.uniform(0, 256),
    )


def sample_shot(rng: np.random.Generator) -> Shot:
    """A shot drawn at random."""
    side, height = rng.uniform(-1.1, 1.1), rng.uniform(-0.2, 0.9)
    light = np.array([np.sin(side), -np.sin(height), 0.35 + np.cos(side)])
    light /= np.linalg.norm(light)
    return Shot(
        yaw=float(np.clip(rng.normal(0, 0.16), -0.4, 0.4)),
        pitch=float(np.clip(rng.normal(0, 0.08), -0.2, 0.2)),
        roll=float(np.clip(rng.normal(0, 0.05), -0.15, 0.15)),
        scale=rng.uniform(1.00, 1.12),
        centre_x=rng.normal(0, 0.02),
        centre_y=rng.normal(0.04, 0.02),
        light=(float(light[0]), float(light[1]), float(light[2])),
        ambient=rng.uniform(0.25, 0.6),
        warmth=rng.normal(0, 0.08),
        exposure=float(np.exp(rng.normal(0.05, 0.15))),
        shine=rng.uniform(0.04, 0.22),
        smile=rng.uniform(-0.25, 1.0),
        mouth_open=max(0.0, rng.uniform(-0.08, 0.09)),
        gaze_u=rng.normal(0, 0.3),
        gaze_v=rng.normal(0, 0.15),
        eye_open=float(np.clip(rng.normal(1.0, 0.15), 0.5, 1.25)),
        wall=_pick(rng, WALL, 0.3),
        wall_other=_pick(rng, WALL, 0.3),
        wall_kind=str(rng.choice(["gradient", "leaves", "stripes", "window"])),
        wall_phase=rng.uniform(0, 1),
        cloth=_pick(rng, CLOTH, 0.3),
    )
