"""The cache: all decoded images of one split in one array on disk. Its format, and how it is read.

CACHE/<split>-<size>.npy is a plain NumPy file, uint8 (N, size, size, 3) RGB, which readers map into memory. A JSON
file beside it, written last, describes the images. If it is missing or describes other images, the array is not used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL

from ..common.cli import UserError
from ..common.texts import read_json


class CachedPixels:
    """The array. Each process maps the file itself: only its name is sent to a worker."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._array: np.ndarray | None = None

    def __getitem__(self, index: int) -> np.ndarray:
        if self._array is None:
            self._array = np.load(self.file, mmap_mode="r")
        return self._array[index]

    def __getstate__(self) -> dict[str, Any]:
        return {"file": self.file, "_array": None}


def array_file(cache: Path, split: str, size: int) -> Path:
    """The file of a split's array."""
    return cache / f"{split}-{size}.npy"


def description(fingerprint: str, count: int, size: int) -> dict[str, Any]:
    """What the array holds. The fingerprint of the data identifies the images and their order."""
    return {"fingerprint": fingerprint, "images": count, "image_size": size, "pillow": PIL.__version__}


def open_cached(cache: Path, split: str, wanted: dict[str, Any]) -> CachedPixels:
    """The array of a split. UserError, with what to do, if it is missing, damaged, or of other images than `wanted`."""
    file = array_file(cache, split, wanted["image_size"])
    advice = f"run cache.py DATA {cache} --image-size {wanted['image_size']} --splits {split}"
    if not file.with_suffix(".json").is_file() or not file.is_file():
        raise UserError(f"{file}: no such cache; {advice}", exit_code=2)
    found = read_json(file.with_suffix(".json"))
    different = [name for name, value in wanted.items() if found.get(name) != value]
    if different:
        raise UserError(f"{file}: made from other data (another {' and '.join(different)}); {advice}", exit_code=2)
    try:
        array = np.load(file, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: not a readable NumPy file; {advice}", exit_code=2) from error
    if array.shape != (wanted["images"], wanted["image_size"], wanted["image_size"], 3) or array.dtype != np.uint8:
        raise UserError(f"{file}: an array of {array.dtype} {array.shape}; {advice}", exit_code=2)
    return CachedPixels(file)


def is_cached(cache: Path, split: str, wanted: dict[str, Any]) -> bool:
    """Whether a split's array exists, is complete, and is of these images."""
    try:
        open_cached(cache, split, wanted)
    except UserError:
        return False
    return True
