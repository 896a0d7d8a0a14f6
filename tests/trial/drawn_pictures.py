"""Pictures drawn for tests: a folder for each class, each picture noise around its class's colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"blue": (60, 90, 200), "red": (200, 60, 60)}


def draw_pictures(folder: Path, each: int = 10, side: int = 12) -> Path:
    """Draw `each` pictures of two classes, and return the folder."""
    draw = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number in range(each):
            pixels = np.clip(np.array(colour) + draw.normal(0, 60, (side, side, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number}.png")
    return folder
