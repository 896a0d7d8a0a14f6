"""The trivial baseline: the AUC of a logistic regression on cues that do not depend on what the image shows.

The cues hold no positions: the spectrum averaged over rings, each channel's mean and deviation, the energy of the noise
residual, and the file's size if there are files. A high AUC here means that the two classes were made differently
(resampled, compressed or lit), so that a model's high AUC on the same data proves little.
"""

from __future__ import annotations

import functools
import os

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ..common.cli import UserError
from ..data import open_split
from ..dataset.images import Images

MOST_TRAIN, MOST_TEST = 4000, 2000  # images used; more would change the second digit of the AUC at most
RINGS = 24


@functools.lru_cache
def baseline_of(data: str, split: str, image_size: int, fingerprint: str) -> float | None:
    """The baseline's AUC on a split, or None, and a line that says why, if the training split can't be read.

    It is computed once for several runs; `fingerprint` makes sure that changed data are not taken for the same.
    """
    try:
        train, test = (open_split(data, name, image_size) for name in ("train", split))
        return trivial_baseline_auc(train, test)
    except UserError as error:
        print(f"no trivial baseline: {error}")
        return None


def trivial_baseline_auc(train: Images, test: Images) -> float:
    """AUC on `test` of a logistic regression on trivial cues, fitted to `train`; deterministic.

    Raises UserError if an image can't be read or a set holds one class only.
    """
    for name, images in (("training", train), ("test", test)):
        if len(np.unique(images.labels)) < 2:
            raise UserError(f"the trivial baseline needs real and fake images, but the {name} set holds one class")
    use_size = bool(train.files and test.files)
    chosen_train, chosen_test = _spread(train, MOST_TRAIN), _spread(test, MOST_TEST)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    model.fit(_cues_of(train, chosen_train, use_size), train.labels[chosen_train])
    scores = model.decision_function(_cues_of(test, chosen_test, use_size))
    return float(roc_auc_score(test.labels[chosen_test], scores))


def _spread(images: Images, most: int) -> np.ndarray:
    """Indices of at most `most` images, spread evenly over the set, the classes in their own proportion."""
    chosen = []
    for label in (0, 1):
        of_class = np.flatnonzero(images.labels == label)
        share = max(1, round(most * len(of_class) / len(images)))
        chosen.append(of_class[np.unique(np.linspace(0, len(of_class) - 1, share).astype(int))])
    return np.sort(np.concatenate(chosen))


def _cues_of(images: Images, indices: np.ndarray, use_size: bool) -> np.ndarray:
    rows = []
    for index in indices.tolist():
        row = cues(images[index][0].numpy())
        if use_size:
            row = np.append(row, np.log(max(os.path.getsize(images.files[index]), 1)))
        rows.append(row)
    return np.stack(rows)


def cues(pixels: np.ndarray) -> np.ndarray:
    """The cues of one image, uint8 (3, S, S): log spectrum by ring, colour statistics, log energy of the residual."""
    planes = pixels.astype(np.float64) / 255
    grey = planes.mean(axis=0)
    power = np.abs(np.fft.rfft2((grey - grey.mean()) * _window(grey.shape[0]))) ** 2
    rings, counts = _rings(grey.shape[0])
    spectrum = np.log(np.bincount(rings.ravel(), power.ravel(), minlength=RINGS) / counts + 1e-9)
    centre = planes[:, 1:-1, 1:-1]
    neighbours = (planes[:, :-2, 1:-1] + planes[:, 2:, 1:-1] + planes[:, 1:-1, :-2] + planes[:, 1:-1, 2:]) / 4
    residual = np.log(((centre - neighbours) ** 2).mean(axis=(1, 2)) + 1e-9)
    return np.concatenate([spectrum, planes.mean(axis=(1, 2)), planes.std(axis=(1, 2)), residual])


@functools.cache
def _window(size: int) -> np.ndarray:
    return np.outer(np.hanning(size), np.hanning(size))


@functools.cache
def _rings(size: int) -> tuple[np.ndarray, np.ndarray]:
    """The ring of every frequency of rfft2, and the number of frequencies in each ring."""
    radius = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    rings = np.minimum((radius / np.hypot(0.5, 0.5) * RINGS).astype(int), RINGS - 1)
    return rings, np.maximum(np.bincount(rings.ravel(), minlength=RINGS), 1)
