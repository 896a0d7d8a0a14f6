"""Portraits for tests: one real face (scikit-image's astronaut, public domain), warped and tinted into "people"."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from skimage.data import astronaut


def astronaut_as(person: int) -> np.ndarray:
    """The astronaut as another person: mirrored, tinted and slightly stretched; uint8 RGB (400, 400, 3)."""
    rng = np.random.default_rng(person)
    image = astronaut()[:256, 96:352].astype(np.float32)
    if person % 2:
        image = image[:, ::-1]
    image = np.clip(image * rng.uniform(0.85, 1.1, 3), 0, 255).astype(np.uint8)
    stretch = np.array([[1.5 + 0.1 * rng.uniform(-1, 1), 0, 5 * rng.uniform(-1, 1)], [0, 1.5, 5 * rng.uniform(-1, 1)]])
    return cv2.warpAffine(image, stretch, (400, 400), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def save_rgb(path: Path, image: np.ndarray) -> None:
    """Write an image, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))


def save_people(folder: Path, people: int = 7) -> Path:
    """A folder of portraits: one of each person a, b, c, ... and a second of a."""
    for person in range(people):
        save_rgb(folder / f"{chr(97 + person)}_1.png", astronaut_as(person))
    save_rgb(folder / "a_2.png", cv2.GaussianBlur(astronaut_as(0), (0, 0), 1.5))
    return folder
