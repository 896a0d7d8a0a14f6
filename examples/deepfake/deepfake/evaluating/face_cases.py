"""Portraits made hard to find: turned, shrunk, darkened or covered, in a larger picture, with the face's true box."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ..common.cli import UserError
from ..common.texts import numbered_lines, parse_json, read_text
from ..media.image_files import read_rgb
from ..media.tracks import Box

HEIGHT, WIDTH = 480, 640
TILE = 28  # side of the pieces that pictures without a face are made of


class Case(NamedTuple):
    """What is done to a portrait; `covered` is a part of the face's box (x0, y0, x1, y1), in its sides."""

    name: str
    face: int = 132  # side of the face in the picture, in pixels
    degrees: int = 0
    mirrored: bool = False
    gain: float = 1.0
    covered: Box | None = None


CASES = (
    Case("as it is"),
    Case("mirrored", mirrored=True),
    *(Case(f"turned by {degrees} degrees", degrees=degrees) for degrees in (15, 30, 45, 90, 180)),
    *(Case(f"face of {side} px", face=side) for side in (300, 80, 60, 40, 30, 20)),
    *(Case(f"light x {gain}", gain=gain) for gain in (0.5, 0.25, 0.1)),
    Case("eyes covered", covered=(0, 0.1, 1, 0.38)),
    Case("mouth covered", covered=(0, 0.62, 1, 1)),
    Case("one half covered", covered=(0, 0, 0.5, 1.1)),
)
UPRIGHT = ("as it is", "mirrored", "face of 300 px", "face of 80 px")
"""Cases in which boxes are compared: the whole face, large enough for every detector."""


class Portrait(NamedTuple):
    """A portrait, uint8 RGB (H, W, 3), and the box of its face."""

    pixels: np.ndarray
    box: Box


def read_portraits(folder: Path) -> list[Portrait]:
    """The portraits that the folder's faces.jsonl lists, in its order. UserError if it does not."""
    listing = folder / "faces.jsonl"
    try:
        rows = [parse_json(line) for _, line in numbered_lines(read_text(listing))]
        boxes = [(float(x0), float(y0), float(x1), float(y1)) for x0, y0, x1, y1 in (row["box"] for row in rows)]
        return [Portrait(read_rgb(folder / row["file"]), box) for row, box in zip(rows, boxes, strict=True)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{listing}: is no list of portraits with file and box ({error})", 2) from error


def picture(portrait: Portrait, case: Case, seed: tuple[int, int]) -> tuple[np.ndarray, Box]:
    """The portrait in a picture of 640 x 480, and the face's box there.

    The face is up to a tenth larger or smaller than the case says, and off the middle.
    """
    random = np.random.default_rng(seed)
    pixels, (x0, y0, x1, y1) = _covered(portrait, case.covered), portrait.box
    side = case.face * np.exp(random.uniform(-0.1, 0.1))
    scale = side / max(x1 - x0, y1 - y0)
    small = min(scale, 1.0)  # area averaging first: shrinking by interpolation would leave every second pixel out
    pixels = cv2.resize(pixels, None, fx=small, fy=small, interpolation=cv2.INTER_AREA)
    turn = cv2.getRotationMatrix2D(((x0 + x1) / 2 * small, (y0 + y1) / 2 * small), case.degrees, scale / small)
    reach = np.maximum(0, np.array([WIDTH, HEIGHT]) / 2 - 0.85 * side)  # keeps the portrait inside where it fits
    x, y = np.array([WIDTH, HEIGHT]) / 2 + random.uniform(-1, 1, 2) * np.minimum(reach, (120, 60))
    turn[:, 2] += (x - (x0 + x1) / 2 * small, y - (y0 + y1) / 2 * small)
    border = tuple(float(value) for value in np.median(portrait.pixels[:8].reshape(-1, 3), axis=0))
    image = cv2.warpAffine(pixels, turn, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR, borderValue=border)
    if case.mirrored:
        image, x = image[:, ::-1], WIDTH - x
    image = np.ascontiguousarray(np.round(image * case.gain).astype(np.uint8))
    return image, (x - side / 2, y - side / 2, x + side / 2, y + side / 2)


def _covered(portrait: Portrait, part: Box | None) -> np.ndarray:
    """The portrait's pixels, grey where the part of its face is."""
    if part is None:
        return portrait.pixels
    pixels, (x0, y0, x1, y1) = portrait.pixels.copy(), portrait.box
    left, right = (round(x0 + edge * (x1 - x0)) for edge in part[::2])
    top, bottom = (round(y0 + edge * (y1 - y0)) for edge in part[1::2])
    pixels[top:bottom, left:right] = 128
    return pixels


def shuffled(portraits: list[Portrait], seed: int) -> np.ndarray:
    """A picture without a face: small pieces of the portraits in random order."""
    random = np.random.default_rng(seed)
    rows, columns = -(-HEIGHT // TILE), -(-WIDTH // TILE)
    tiles = []
    for index in random.integers(len(portraits), size=rows * columns):
        pixels = portraits[index].pixels
        y, x = (random.integers(length - TILE + 1) for length in pixels.shape[:2])
        tiles.append(pixels[y : y + TILE, x : x + TILE])
    lines = [np.hstack(tiles[row * columns : (row + 1) * columns]) for row in range(rows)]
    return np.ascontiguousarray(np.vstack(lines)[:HEIGHT, :WIDTH])
