"""Decodes the images of a data folder once, into arrays that training maps into memory: for large sets and fast GPUs.

    python examples/deepfake/cache.py data/ffpp_c23 /fast/disk/ffpp_c23
    python examples/deepfake/train.py --data data/ffpp_c23 --cache /fast/disk/ffpp_c23 --out runs/ffpp_c23

The batches equal those without a cache, bit for bit. An array takes 3 * size^2 bytes per image: 19 GB for RECCE's
72,000 training images at 299 pixels. An array of the same images is kept; a killed command leaves no array.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import deepfake  # noqa: F401  # isort: skip (first: Ctrl-C during the imports below then ends in one line)

import numpy as np

from deepfake.common.cli import Parser, UserError, in_range, non_empty, path, positive_int, reading_input, run
from deepfake.common.files import free_space, make_folder, shown_size, write_json
from deepfake.common.lock import locked
from deepfake.common.workers import run_tasks
from deepfake.data import open_split
from deepfake.dataset.cached_pixels import array_file, description, is_cached
from deepfake.dataset.images import Images
from deepfake.dataset.manifest import SPLITS
from deepfake.dataset.resizing import square
from deepfake.demo.options import is_demo
from deepfake.media.image_files import read_rgb
from deepfake.training.settings import Settings

CHUNK_IMAGES = 64


@dataclass(frozen=True)
class Chunk:
    """Some images, and the offset of their pixels in the array's file."""

    files: list[str]
    size: int
    target: Path
    offset: int


def main(argv: Sequence[str] | None = None) -> None:
    """Build the arrays of the splits on the command line."""
    parser = Parser(description="Decode the images of a data folder once, into arrays for train.py --cache.")
    parser.add_argument(
        "data", type=non_empty, metavar="DATA", help="folder with real/ and fake/, or with a manifest.jsonl"
    )
    parser.add_argument("cache", type=path, metavar="CACHE", help="folder for the arrays")
    size = Settings.image_size
    parser.add_argument("--image-size", type=in_range(int, 16, 4096), default=size, help="default: %(default)s")
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=["train", "val"], help="default: train val")
    parser.add_argument("--workers", type=positive_int, default=2, help="processes (default: %(default)s)")
    arguments = parser.parse_args(argv)
    if is_demo(arguments.data):
        raise UserError("the demo's images are in memory: wanted a folder (./demo is one called demo)", 2)
    with reading_input():
        data = {split: open_split(arguments.data, split, arguments.image_size) for split in arguments.splits}
        check_space(arguments.cache, data)
    make_folder(arguments.cache)
    with locked(arguments.cache / ".lock", f"{arguments.cache}: another cache.py is writing there"):
        for split, images in data.items():
            build(images, arguments.cache, split, arguments.workers)


def check_space(cache: Path, data: dict[str, Images]) -> None:
    """UserError, before any work begins, if the disk has no room for the arrays to build."""
    left = [images for split, images in data.items() if not is_cached(cache, split, described(images))]
    needed = sum(3 * images.image_size**2 * len(images) for images in left)
    free = free_space(cache)
    if needed > free:
        raise UserError(f"{cache}: needs {shown_size(needed)}, but {shown_size(free)} are free")


def described(images: Images) -> dict[str, Any]:
    """The description of the array of these images."""
    return description(images.fingerprint, len(images), images.image_size)


def build(images: Images, cache: Path, split: str, workers: int) -> None:
    """Write a split's array and, last, its description, unless both exist and are of these images."""
    file = array_file(cache, split, images.image_size)
    if is_cached(cache, split, described(images)):
        print(f"{file}: already built")
        return
    file.with_suffix(".json").unlink(missing_ok=True)
    partial = file.with_name(f".{file.name}.partial")
    try:
        array = np.lib.format.open_memmap(  # writes the header and gives the file its size
            partial, mode="w+", dtype=np.uint8, shape=(len(images), images.image_size, images.image_size, 3)
        )
        begin, step = array.offset, array[0].nbytes
        del array
        chunks = [
            Chunk(images.files[first : first + CHUNK_IMAGES], images.image_size, partial, begin + first * step)
            for first in range(0, len(images), CHUNK_IMAGES)
        ]
        for _ in run_tasks(write_pixels, chunks, workers, f"decoding {split}"):
            pass
        os.replace(partial, file)
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
    write_json(file.with_suffix(".json"), described(images))
    print(f"{file}: {len(images)} images, {shown_size(file.stat().st_size)}")


def write_pixels(chunk: Chunk) -> None:
    """Decode some images and write their pixels. (On a full disk, a write through mapped memory kills the process.)"""
    pixels = np.stack([square(read_rgb(file), chunk.size) for file in chunk.files])
    with chunk.target.open("r+b") as target:
        target.seek(chunk.offset)
        target.write(pixels.tobytes())
        target.flush()
        os.fsync(target.fileno())


if __name__ == "__main__":
    run(main)
