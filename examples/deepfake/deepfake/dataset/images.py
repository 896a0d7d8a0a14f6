"""The images of one split, from memory or from a folder.

Every image reaches the network the same way: turned upright by its EXIF tag, converted to RGB, cut to its central
square, and resized with an antialiasing filter (for published weights, as their own code does: resizing.py). Face
crops (prepare.py) are square already and lose nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..media.image_files import opened, read_rgb
from .cached_pixels import CachedPixels, description, open_cached
from .manifest import MANIFEST, check_links, list_images, select
from .resizing import Resize, square


@dataclass(kw_only=True, eq=False, repr=False)
class Images(Dataset[tuple[Tensor, int, int]]):
    """One split. `images[i]` is (uint8 tensor (3, S, S) RGB, label 0 real or 1 fake, i).

    Attributes:
        labels: int64 array (N,), 0 real, 1 fake.
        videos: the video of each image, "method/id"; a still photo is its own video.
        methods: the forgery method of each image; "real" for reals.
        names: each image's path in its folder, or its name in the demo.
        description: what the data are, for people.
        fingerprint: sha256 of the list of images of all splits.
        image_size: S.
        face_in_middle: bool array (N,), whether the image is known to be cut around a face's box.
        landmarks: of each image, points (P, 2), x and y in pixels of `crop`, or None; empty if they are not known.
        files: each image's file; empty for the demo.
        pixels: the images in memory or in a cache; None: they are read from the files.
        rows: the row in `pixels` of each image; None: all, in order.
        resize: how an image reaches the size S.
    """

    labels: np.ndarray
    videos: list[str]
    methods: list[str]
    names: list[str]
    description: str
    fingerprint: str
    image_size: int
    face_in_middle: np.ndarray = field(default_factory=lambda: np.array(False))
    landmarks: Sequence[np.ndarray | None] = ()
    files: list[str] = field(default_factory=list)
    pixels: np.ndarray | CachedPixels | None = None
    rows: Sequence[int] | None = None
    resize: Resize = square

    def __post_init__(self) -> None:
        self.labels = np.asarray(self.labels, dtype=np.int64)
        self.face_in_middle = np.broadcast_to(np.asarray(self.face_in_middle, dtype=bool), self.labels.shape)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        index = range(len(self))[index]
        pixels = self.resize(self.crop(index), self.image_size)
        return torch.from_numpy(pixels.transpose(2, 0, 1).copy()), int(self.labels[index]), index

    def crop(self, index: int) -> np.ndarray:
        """An image as it is stored, uint8 (H, W, 3); the demo's are at most as large as the network's input."""
        if self.pixels is None:
            return read_rgb(self.files[index])
        return self.pixels[index if self.rows is None else self.rows[index]]


def open_folder(root: Path, split: str, image_size: int, cache: Path | None = None) -> Images:
    """Open one split of a folder; deepfake/data.py says how."""
    records, fingerprint = list_images(root)
    records = select(records, split, root)
    files = [str(root / record.path) for record in records]
    pixels = open_cached(cache, split, description(fingerprint, len(records), image_size)) if cache else None
    if pixels is None and (root / MANIFEST).is_file():
        check_links(root, records)
    for file in files if pixels is None else ():
        with opened(file):
            pass  # the header is readable
    labels = [record.label for record in records]
    return Images(
        labels=np.array(labels),
        videos=[record.video for record in records],
        methods=[record.method for record in records],
        names=[record.path for record in records],
        description=f"{root}: {labels.count(0)} real and {labels.count(1)} fake images in {split}",
        fingerprint=fingerprint,
        image_size=image_size,
        face_in_middle=np.array([record.has_box for record in records]),
        landmarks=[record.landmarks for record in records] if pixels is None else (),
        files=files,
        pixels=pixels,
    )


def to_unit_range(images: Tensor) -> Tensor:
    """uint8 images, any shape, to float32 in [-1, 1], as the networks take them."""
    return images.to(torch.float32).div_(127.5).sub_(1.0)
