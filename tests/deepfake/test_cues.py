"""The trivial baseline: near 0.5 on equal classes, high on a data set whose classes were made differently."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deepfake.common.cli import UserError
from deepfake.data import open_split
from deepfake.dataset.images import Images
from deepfake.evaluating.trivial_cues import cues, trivial_baseline_auc


def images_of(labels: list[int], names: list[str], **more: Any) -> Images:
    """A set without names of people, methods or data."""
    methods = ["fake" if label else "real" for label in labels]
    about = {"description": "", "fingerprint": "", "videos": names, "names": names, "methods": methods}
    return Images(labels=labels, **{**about, **more})


def faces(count: int, seed: int, *, fake_gain: float = 1.0, fake_blur: bool = False) -> Images:
    """Blobs under noise; fakes differ from reals only as asked."""
    rng = np.random.default_rng(seed)
    pixels = np.clip(rng.normal(120, 25, (count, 24, 24, 3)) + rng.normal(0, 20, (count, 1, 1, 3)), 0, 255)
    labels = [index % 2 for index in range(count)]
    fakes = pixels[1::2]
    if fake_blur:
        fakes = (fakes + np.roll(fakes, 1, 1) + np.roll(fakes, 1, 2) + np.roll(fakes, (1, 1), (1, 2))) / 4
    pixels[1::2] = np.clip(fakes * fake_gain, 0, 255)
    names = [str(index) for index in range(count)]
    return images_of(labels, names, image_size=24, pixels=pixels.astype(np.uint8))


def test_nothing_to_see_is_near_half_and_always_the_same() -> None:
    auc = trivial_baseline_auc(faces(600, 0), faces(400, 1))
    assert 0.4 < auc < 0.6
    assert auc == trivial_baseline_auc(faces(600, 0), faces(400, 1))


def test_a_class_that_was_resampled_is_seen() -> None:
    assert trivial_baseline_auc(faces(200, 0, fake_blur=True), faces(200, 1, fake_blur=True)) > 0.99


def test_a_class_of_another_brightness_is_seen() -> None:
    assert trivial_baseline_auc(faces(300, 0, fake_gain=1.5), faces(300, 1, fake_gain=1.5)) > 0.9


def test_where_something_is_does_not_matter() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (3, 32, 32), dtype=np.uint8)
    np.testing.assert_allclose(cues(pixels), cues(pixels[:, ::-1, ::-1]), atol=1e-6)


@pytest.mark.parametrize("size", [3, 8, 33, 64])
def test_any_size_and_a_flat_image_give_finite_cues(size: int) -> None:
    assert np.isfinite(cues(np.full((3, size, size), 128, np.uint8))).all()


def test_file_sizes_count_where_there_are_files(tmp_path: Path) -> None:
    sets = []
    for name in ("train", "test"):
        files = []
        for index in range(60):
            file = tmp_path / f"{name}{index}.png"
            Image.new("RGB", (8, 8)).save(file)
            with file.open("ab") as stream:
                stream.write(b"\0" * (500 if index % 2 else 0))  # the pixels are the same, the bytes are not
            files.append(str(file))
        sets.append(images_of([index % 2 for index in range(60)], files, image_size=8, files=files))
    assert trivial_baseline_auc(*sets) == 1.0


def test_one_class_is_refused() -> None:
    images = faces(10, 0)
    images.labels[:] = 0
    with pytest.raises(UserError, match="the training set holds one class"):
        trivial_baseline_auc(images, faces(10, 1))


def test_the_demo_gives_trivial_cues_little(one_shot: None) -> None:
    assert trivial_baseline_auc(open_split("demo", "train", 64), open_split("demo", "test", 64)) < 0.68
