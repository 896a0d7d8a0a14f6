"""The images of a trial, in memory: a folder with a folder for each class, or scikit-learn's digits."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deepfake.common.cli import UserError
from deepfake.common.workers import cores, run_tasks
from deepfake.dataset.batches import seed_for
from deepfake.dataset.resizing import square
from deepfake.media.found_files import check_readable, find_media, report_left_out
from deepfake.media.image_files import read_rgb

DIGITS = "digits"
TRAIN, TEST = "train", "test"
FEW = 2000  # images: other processes that read them take longer to start


class Split(NamedTuple):
    """images (N, 3, S, S) uint8, labels (N,) int64."""

    images: Tensor
    labels: Tensor


class Pictures(NamedTuple):
    """The images of both splits.

    name: what the data are, for people.
    classes: the classes' names, in the order of the labels.
    """

    name: str
    classes: list[str]
    train: Split
    test: Split

    def fingerprint(self) -> str:
        """A hash of classes, pixels and labels."""
        found = hashlib.sha256(repr(self.classes).encode())
        for tensor in (*self.train, *self.test):
            found.update(tensor.numpy().tobytes())
        return found.hexdigest()[:16]


def open_pictures(data: str, size: int, test_share: float, split_seed: int, workers: int | None) -> Pictures:
    """The images, cut to their central square and resized to `size`. UserError if they cannot be used.

    Where the data have no train/ and test/, `test_share` of each class, drawn by `split_seed`, is for the test.
    workers: processes that read the files; None: one for each core, at most 4, or none for few files.
    """
    if data == DIGITS:
        return _digits(size, test_share, split_seed)
    return _folder(Path(data), size, test_share, split_seed, workers)


def _digits(size: int, test_share: float, split_seed: int) -> Pictures:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError("--data digits: needs scikit-learn: pip install scikit-learn", 2) from None
    found = load_digits()
    grey = (found.images * (255 / 16)).round().astype(np.uint8)
    images = np.stack([square(np.repeat(image[..., None], 3, 2), size) for image in grey])
    classes = [str(name) for name in found.target_names]
    everything = _split_of(images, found.target)
    return Pictures("scikit-learn's digits", classes, *_divided(everything, classes, test_share, split_seed))


def _folder(root: Path, size: int, test_share: float, split_seed: int, workers: int | None) -> Pictures:
    if not root.is_dir():
        raise UserError(f"--data {root}: no such folder (wanted a folder with a folder for each class, or {DIGITS})", 2)
    if (root / TRAIN).is_dir():
        classes = _classes(root / TRAIN)
        train = _read(root / TRAIN, classes, size, workers)
        if (root / TEST).is_dir():
            if _classes(root / TEST) != classes:
                raise UserError(f"{root / TEST}: has other classes than {TRAIN}/; wanted {', '.join(classes)}", 2)
            return Pictures(root.resolve().name, classes, train, _read(root / TEST, classes, size, workers))
    else:
        classes = _classes(root)
        train = _read(root, classes, size, workers)
    return Pictures(root.resolve().name, classes, *_divided(train, classes, test_share, split_seed))


def _classes(folder: Path) -> list[str]:
    """The names of the folders, one for each class."""
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    if len(names) < 2:
        found = f"one class, {names[0]}" if names else "no folder"
        raise UserError(f"{folder}: has {found}; wanted a folder for each class, at least 2, with images in them", 2)
    return names


def _read(folder: Path, classes: Sequence[str], size: int, workers: int | None) -> Split:
    files, labels = [], []
    for label, name in enumerate(classes):
        found = find_media(folder / name, ("image",))
        check_readable(found)
        report_left_out(folder / name, found)
        if not found.files:
            raise UserError(f"{folder / name}: has no images; remove the folder, or put images into it", 2)
        files += found.files
        labels += [label] * len(found.files)
    if workers is None:
        workers = min(4, cores()) if len(files) > FEW else 0
    images = np.empty((len(files), size, size, 3), np.uint8)
    for index, image in enumerate(run_tasks(partial(_read_one, size=size), files, workers, f"images of {folder.name}")):
        images[index] = image
    return _split_of(images, labels)


def _read_one(file: Path, size: int) -> np.ndarray:
    return square(read_rgb(file), size)


def _split_of(images: np.ndarray, labels: Sequence[int] | np.ndarray) -> Split:
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    return Split(pixels, torch.as_tensor(labels, dtype=torch.int64))


def _divided(everything: Split, classes: Sequence[str], test_share: float, seed: int) -> tuple[Split, Split]:
    """Both splits: of each class the same share for the test, at least one image in each split."""
    draw = torch.Generator().manual_seed(seed_for(seed))
    parts: list[list[Tensor]] = [[], []]
    for label, name in enumerate(classes):
        mine = (everything.labels == label).nonzero()[:, 0]
        if len(mine) < 2:
            raise UserError(f"class {name}: has {len(mine)} image; wanted at least 2, one to train and one to test", 2)
        mine = mine[torch.randperm(len(mine), generator=draw)]
        count = min(max(1, round(test_share * len(mine))), len(mine) - 1)
        parts[0].append(mine[count:])
        parts[1].append(mine[:count])
    train, test = (torch.cat(part).sort().values for part in parts)
    return Split(*(tensor[train] for tensor in everything)), Split(*(tensor[test] for tensor in everything))
