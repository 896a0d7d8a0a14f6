"""Opens one split of the data that a command is given: ``open_split("demo" or a folder, "train", image_size)``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from .common.cli import UserError
from .dataset.images import Images, open_folder
from .dataset.manifest import SPLITS
from .dataset.resizing import Resize, square
from .demo.options import fold_of
from .demo.shot_images import demo_images


def open_split(
    data: str | Path, split: str, image_size: int, cache: Path | None = None, resize: Resize = square
) -> Images:
    """Open one split of the demo (the text "demo", or "demo/0" to "demo/6": its folds) or of a folder (manifest.py).

    A Path is always a folder: Path("./demo") and Path("demo") are equal.

    Of a folder, the whole list is checked, and the header of every image file of this split. Pixels are read on
    access: from the files, or already decoded from the folder `cache` that cache.py wrote. `resize` brings them to
    the image size (dataset/resizing.py).
    Raises UserError, which names the file and what was wanted, also if the cache holds other data.
    """
    if split not in SPLITS:
        raise UserError(f"split {split!r} (wanted train, val or test)")
    if image_size < 1:
        raise UserError(f"image size {image_size} (wanted at least 1)")
    fold = fold_of(data) if isinstance(data, str) else None
    if fold is not None:
        return replace(demo_images(split, fold, image_size), resize=resize)
    return replace(open_folder(Path(data), split, image_size, cache), resize=resize)
