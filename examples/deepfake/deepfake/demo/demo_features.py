"""Paints what a face of the demo has: skin, beard, eyes, brows, nose and mouth, unlit, and the relief they make."""

from __future__ import annotations

import numpy as np

from .demo_head import Canvas, Field, Head, length, paint, plane, sample


def paint_features(head: Head) -> tuple[Canvas, Field]:
    """The face's colour before light, and the height map that bends its normals."""
    skin = _skin(head)
    height = _relief(head)
    _paint_beard(skin, head)
    _paint_mouth(skin, height, head)
    for hand in (-1, 1):
        _paint_eye(skin, head, hand)
    _paint_nostrils(skin, head)
    return skin, height


def _skin(head: Head) -> Canvas:
    who = head.who
    x, y = head.u * 60 + who.grain_u, head.v * 75 + who.grain_v
    tone = 1 + who.mottle * (0.05 * sample("cloud", x, y) + 0.035 * sample("grain", x * 2, y * 2))
    skin = plane(who.skin) * tone
    if who.freckles:
        spots = np.clip(sample("grain", x * 1.7 + 31, y * 1.7) - 1.4, 0, 1) * np.clip(
            0.55 - np.abs(head.v - 0.12), 0, 0.3
        )
        skin *= 1 - plane((0.5, 0.8, 0.9)) * (who.freckles * 1.6 * spots)
    red = head.blob(-0.5, 0.22, 0.22, 0.17) + head.blob(0.5, 0.22, 0.22, 0.17) + head.blob(0, who.nose_v, 0.14, 0.12)
    skin *= 1 - plane((0.0, 0.15, 0.14)) * (who.blush * red)
    return skin


def _relief(head: Head) -> Field:
    who = head.who
    bridge = (who.eye_v + who.nose_v) / 2 + 0.03
    height = 0.07 * who.nose_bulge * head.blob(0, bridge, who.nose_width * 0.55, (who.nose_v - who.eye_v) * 0.6)
    height += 0.08 * who.nose_bulge * head.blob(0, who.nose_v - 0.01, who.nose_width * 0.7, 0.09)
    height += 0.04 * head.blob(0, 0.82, 0.2, 0.12) - 0.03 * head.blob(0, who.mouth_v + 0.15, 0.2, 0.05)
    for hand in (-1, 1):
        height += 0.028 * head.blob(hand * who.nose_width * 0.75, who.nose_v + 0.02, 0.06, 0.05)
        height -= 0.050 * head.blob(hand * (who.eye_u - 0.05), who.eye_v - 0.02, 0.22, 0.13)
        height += 0.030 * head.blob(hand * 0.5, 0.2, 0.2, 0.16)
        height -= 0.020 * head.blob(hand * (who.mouth_width + 0.1), who.mouth_v - 0.05, 0.05, 0.12)
    return height


def _paint_nostrils(skin: Canvas, whole: Head) -> None:
    who = whole.who
    head = whole.part((-who.nose_width, who.nose_width), (who.nose_v - 0.05, who.nose_v + 0.15))
    holes = head.blob(-0.45 * who.nose_width, who.nose_v + 0.05, 0.045, 0.026)
    holes += head.blob(0.45 * who.nose_width, who.nose_v + 0.05, 0.045, 0.026)
    skin[(slice(None), *head.window)] *= 1 - 0.7 * np.minimum(holes, 1)


def _paint_eye(skin: Canvas, whole: Head, hand: int) -> None:
    """One eye (`hand` -1 left in the image, 1 right) with lids, iris, glint and brow; gaze and light are the shot's."""
    who, shot = whole.who, whole.shot
    left, right = sorted((hand * (who.eye_u - 0.36), hand * (who.eye_u + 0.36)))
    head = whole.part((left, right), (who.eye_v - 0.36, who.eye_v + 0.16))
    skin = skin[(slice(None), *head.window)]
    du = (head.u - hand * who.eye_u) * hand  # outward
    dv = head.v - who.eye_v + who.eye_tilt * du * 0.5
    along = du * (1 / who.eye_width)
    bow = 1 - along * along
    upper = dv + who.eye_height * shot.eye_open * bow
    lower = who.eye_height * 0.65 * bow - dv
    opening = head.soft(np.minimum(upper, lower))
    paint(skin, plane((0.80, 0.77, 0.74)) * np.clip(0.45 + upper * (0.5 / who.eye_height), 0.4, 1), opening)

    iris_u, iris_v = du - hand * shot.gaze_u * 0.06, dv - shot.gaze_v * 0.04 + 0.008
    radius = who.eye_height * 1.02
    distance = length(iris_u, iris_v * 1.25)
    paint(
        skin,
        plane(who.iris) * (0.6 + 0.7 * np.minimum(distance * (1 / radius), 1) ** 2),
        opening * head.soft(radius - distance),
    )
    paint(skin, plane((0.005, 0.005, 0.006)), opening * head.soft(radius * 0.45 - distance))
    glint = length(iris_u - hand * shot.light[0] * radius * 0.5, iris_v - shot.light[1] * radius * 0.5 - 0.01)
    paint(skin, plane((1.6, 1.6, 1.6)), opening * head.soft(radius * 0.28 - glint))

    near = np.abs(along) < 1.15
    paint(skin, plane((0.02, 0.014, 0.012)), 0.9 * head.soft(0.020 - np.abs(upper), 1.2) * near)
    skin *= 1 - 0.35 * head.soft(0.010 - np.abs(upper + 0.055), 1.5) * near
    arch = who.brow_arch * (1 - (along * 0.8 - 0.2) ** 2)
    arc = head.v - who.eye_v + who.brow_gap + arch - 0.03 + 0.02 * along
    thick = who.brow_thick * np.clip(1.25 - 0.45 * along, 0.3, 1.4)
    brow = head.soft(thick - np.abs(arc), 2) * head.soft(1.35 * who.eye_width - np.abs(du - 0.02), 4)
    paint(skin, plane(who.hair) * 0.4, brow * 0.85)


def _paint_mouth(skin: Canvas, height: Field, whole: Head) -> None:
    """Lips, the gap between them and the teeth in it; the lips' relief is added to `height`."""
    who, shot = whole.who, whole.shot
    half = who.mouth_width * (1 + 0.12 * shot.smile)
    head = whole.part((-half - 0.05, half + 0.05), (who.mouth_v - 0.22, who.mouth_v + 0.28))
    skin, height = skin[(slice(None), *head.window)], height[head.window]
    along = head.u * (1 / half)
    bow = np.maximum(1 - along * along, 0)
    line = head.v - who.mouth_v + 0.07 * shot.smile * (along * along - 0.35)
    upper = who.lip_upper * np.sqrt(bow) * (1 - 0.25 * np.exp(-((along * 6) ** 2)))
    lower = who.lip_lower * np.sqrt(bow)
    gap = shot.mouth_open * bow
    between = np.abs(along) < 1
    lips = head.soft(np.minimum(line + upper + gap * 0.4, lower + gap - line), 1.3) * between
    red = plane(who.skin) * (1 - who.lip_red * plane((0.25, 0.62, 0.52)))
    paint(skin, red, lips)
    paint(skin, red * 0.25, head.soft(0.012 - np.abs(line - gap * 0.3), 1.5) * between)
    if shot.mouth_open > 0.01:
        inner = head.soft(np.minimum(line + gap * 0.4, gap - line)) * between
        paint(skin, plane((0.05, 0.012, 0.012)), inner)
        paint(skin, plane((0.72, 0.69, 0.64)), inner * head.soft(np.minimum(gap * 0.25 - line, 0.8 - np.abs(along))))
    full = (line - (lower + gap) * 0.55) * 20
    thin = (line + upper * 0.5) * 33
    height += bow * (0.02 * np.exp(-full * full) + 0.012 * np.exp(-thin * thin))


def _paint_beard(skin: Canvas, head: Head) -> None:
    who = head.who
    if not who.beard:
        return
    sides = np.abs(head.u)
    jaw = head.soft(np.maximum(head.v - 0.55 + 0.25 * sides, sides - 0.83), 9)
    lip = head.soft(0.05 - np.abs(head.v - who.mouth_v + 0.12 - 0.1 * sides * sides), 4) * head.soft(0.36 - sides, 6)
    stubble = np.clip(0.8 + 0.35 * sample("grain", head.u * 150 + who.grain_u, head.v * 150), 0.2, 1)
    paint(skin, plane(who.hair) * 0.8, np.minimum(jaw + lip, 1) * stubble * (who.beard * 0.9))
