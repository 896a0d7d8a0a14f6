"""The images of a trial: a split keeps every class in both parts; what cannot be used is refused in one line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from deepfake.common.cli import UserError
from tests.trial.drawn_pictures import draw_pictures
from trial.pictures import Pictures, open_pictures


def opened(data: Path | str, share: float = 0.2, seed: int = 0) -> Pictures:
    return open_pictures(str(data), 8, share, seed, workers=0)


def test_a_flat_folder_is_divided_by_class_and_seed(tmp_path: Path) -> None:
    folder = draw_pictures(tmp_path / "own")
    found = opened(folder)
    assert found.classes == ["blue", "red"] and found.train.images.shape == (16, 3, 8, 8)
    assert found.train.labels.bincount().tolist() == [8, 8] and found.test.labels.bincount().tolist() == [2, 2]
    everything = torch.cat([found.train.images, found.test.images]).flatten(1)
    assert len(everything.unique(dim=0)) == 20
    assert opened(folder).fingerprint() == found.fingerprint() != opened(folder, seed=1).fingerprint()
    assert opened(folder, share=0.99).train.labels.bincount().tolist() == [1, 1]


def test_a_test_folder_is_the_test(tmp_path: Path) -> None:
    draw_pictures(tmp_path / "train", each=3)
    assert opened(tmp_path, share=0.34).test.labels.tolist() == [0, 1]
    draw_pictures(tmp_path / "test", each=2)
    found = opened(tmp_path)
    assert found.train.labels.tolist() == [0, 0, 0, 1, 1, 1] and found.test.labels.tolist() == [0, 0, 1, 1]


def test_digits_are_those_of_scikit_learn() -> None:
    pytest.importorskip("sklearn")
    found = opened("digits", share=0.8)
    assert len(found.classes) == 10 and len(found.train.labels) + len(found.test.labels) == 1797
    assert found.train.images.shape[1:] == (3, 8, 8)
    assert (found.train.images.min(), found.train.images.max()) == (0, 255)
    assert found.train.labels.bincount().min() > 30


def broken(folder: Path, fault: str) -> str:
    """Give the folder a fault, and return what is said of it."""
    if fault == "missing":
        shutil.rmtree(folder)
        return "no such folder"
    if fault == "empty":
        shutil.rmtree(folder)
        folder.mkdir()
        return "has no folder; wanted a folder for each class"
    if fault == "one class":
        shutil.rmtree(folder / "red")
        return "has one class, blue; wanted a folder for each class"
    if fault == "class without images":
        (folder / "green").mkdir()
        return "green: has no images"
    if fault == "one image":
        for number in range(1, 10):
            (folder / "red" / f"{number}.png").unlink()
        return "class red: has 1 image; wanted at least 2"
    if fault == "damaged":
        file = folder / "red/3.png"
        file.write_bytes(file.read_bytes()[:100])
        return "3.png: not a readable image"
    if fault == "no image":
        (folder / "red/3.png").write_text("a letter")
        return "3.png: not a readable image"
    draw_pictures(folder / "train")
    draw_pictures(folder / "test")
    shutil.move(folder / "test/red", folder / "test/green")
    return "has other classes than train/; wanted blue, red"


@pytest.mark.parametrize(
    "fault",
    ["missing", "empty", "one class", "class without images", "one image", "damaged", "no image", "other classes"],
)
def test_a_folder_that_cannot_be_used_is_refused_in_one_line(tmp_path: Path, fault: str) -> None:
    folder = draw_pictures(tmp_path / "own")
    said = broken(folder, fault)
    with pytest.raises(UserError) as refused:
        opened(folder)
    assert said in str(refused.value) and "\n" not in str(refused.value)
