"""Data folders and the demo through one interface: images, splits and what tells them apart."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from deepfake.common.cli import UserError
from deepfake.data import open_split
from deepfake.dataset.images import Images, to_unit_range
from deepfake.dataset.manifest import SPLITS, group_of
from deepfake.dataset.subset import of_methods
from tests.deepfake.image_folders import manifest_folder, picture, split_folder, write


def test_a_split_is_read_from_a_manifest(tmp_path: Path) -> None:
    root = write(*manifest_folder(tmp_path))
    images = open_split(str(root), "val", 16)
    assert len(images) == 4
    assert images.labels.dtype == np.int64 and images.labels.tolist() == [0, 0, 1, 1]
    assert images.methods == ["real", "real", "Deepfakes", "Deepfakes"]
    assert images.videos == ["real/val7", "real/val7", "Deepfakes/val7", "Deepfakes/val7"]
    assert images.names[3] == "Deepfakes/val_1.png"
    image, label, index = images[3]
    assert image.shape == (3, 16, 16) and image.dtype == torch.uint8
    assert image[:, 8, 8].tolist() == [200, 100, 0]
    assert (label, index) == (1, 3)
    assert images[-1][2] == 3
    with pytest.raises(IndexError):
        images[4]


def test_path_label_and_split_are_enough_for_a_manifest(tmp_path: Path) -> None:
    rows = [{"path": f"{n}.png", "label": n % 2, "split": "test"} for n in range(4)]
    for row in rows:
        picture(tmp_path / str(row["path"]))
    images = open_split(write(tmp_path, [*rows, ""]), "test", 8)
    assert images.methods == ["real", "fake", "real", "fake"]
    assert images.videos == ["real/0.png", "fake/1.png", "real/2.png", "fake/3.png"]
    assert not images.face_in_middle.any()


def test_only_an_image_with_a_box_is_known_to_have_the_face_in_its_middle(tmp_path: Path) -> None:
    root, rows = manifest_folder(tmp_path)
    known = [row["path"] for row in rows[::2]]
    for row in rows[1::4]:
        row["box"] = None
    for row in rows[3::4]:
        del row["box"]
    images = open_split(write(root, rows), "test", 8)
    assert [name for name, inside in zip(images.names, images.face_in_middle) if inside] == known[-2:]
    fakes = of_methods(replace(images, methods=["real", "real", "a", "b"]), "b")
    assert fakes.face_in_middle.tolist() == [True, False, False]
    assert not open_split(split_folder(tmp_path / "plain"), "test", 8).face_in_middle.any()


@pytest.mark.parametrize("box", [False, [], "x", [0, 0, 9], [0, 0, 0, 9], [9, 0, 0, 9], [0, 0, "9", 9]])
def test_a_box_that_is_none_is_refused_by_its_line(tmp_path: Path, box: Any) -> None:
    root, rows = manifest_folder(tmp_path)
    rows[1]["box"] = box
    with pytest.raises(UserError, match=r"line 2: box .* \(wanted \[x0, y0, x1, y1\]"):
        open_split(write(root, rows), "test", 8)


def test_a_split_is_read_from_split_folders(tmp_path: Path) -> None:
    images = open_split(split_folder(tmp_path), "test", 8)
    assert images.names == ["test/real/0.png", "test/real/1.png", "test/fake/Swap/0.png", "test/fake/Swap/1.png"]
    assert images.methods == ["real", "real", "Swap", "Swap"]
    assert images.videos == ["real/0.png", "real/1.png", "Swap/0.png", "Swap/1.png"]
    assert "2 real and 2 fake" in images.description


def test_a_plain_folder_keeps_a_group_in_one_split(tmp_path: Path) -> None:
    for person in range(40):
        picture(tmp_path / "real" / f"{person:03d}_neutral.jpg")
        picture(tmp_path / "real" / f"{person:03d}-smiling.JPEG")
        picture(tmp_path / "fake" / f"{person:03d}_999.png")
    (tmp_path / "fake" / "notes.txt").write_text("not an image")
    picture(tmp_path / "fake" / ".hidden.png")
    groups: dict[str, set[str]] = {}
    for split in SPLITS:
        images = open_split(tmp_path, split, 8)
        groups[split] = {group_of(Path(name).stem) for name in images.names}
        assert len(images) == 3 * len(groups[split])
    assert sum(map(len, groups.values())) == len(set().union(*groups.values())) == 40


@given(st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1))
def test_a_group_is_never_empty_and_ends_at_the_first_underscore_or_hyphen(stem: str) -> None:
    group = group_of(stem)
    assert group and stem.startswith(group)
    assert group == stem or stem[len(group)] in "_-"


def test_the_fingerprint_changes_with_the_list_of_images_only(tmp_path: Path) -> None:
    root, rows = manifest_folder(tmp_path / "a")
    write(root, rows)
    prints = {open_split(root, split, 8).fingerprint for split in SPLITS}
    assert len(prints) == 1
    write(root, rows[::-1])
    assert open_split(root, "val", 8).fingerprint not in prints
    split_folder(tmp_path / "b")
    before = open_split(tmp_path / "b", "val", 8).fingerprint
    assert open_split(tmp_path / "b", "test", 32).fingerprint == before
    picture(tmp_path / "b" / "train" / "real" / "9.png")
    assert open_split(tmp_path / "b", "val", 8).fingerprint != before


def test_the_demo(one_shot: None) -> None:
    images = open_split("demo", "val", 64)
    assert len(images) == 15 * 2 * 2  # people, photos, classes
    assert images[0][0].shape == (3, 64, 64)
    assert set(images.labels.tolist()) == {0, 1}
    assert "CC BY 4.0" in images.description
    assert len(images.fingerprint) == 64
    assert images.files == []


def test_to_unit_range() -> None:
    values = to_unit_range(torch.tensor([0, 127, 128, 255], dtype=torch.uint8))
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, torch.tensor([-1.0, -1 / 255, 1 / 255, 1.0]))


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_in_loader_workers(tmp_path: Path, context: str) -> None:
    images = open_split(split_folder(tmp_path), "train", 8)
    assert pickle.loads(pickle.dumps(images)).names == images.names
    loader = DataLoader(images, batch_size=4, num_workers=1, multiprocessing_context=context)
    ((pixels, labels, indices),) = loader
    assert pixels.shape == (4, 3, 8, 8) and labels.tolist() == [0, 0, 1, 1] and indices.tolist() == [0, 1, 2, 3]


def test_images_is_a_dataset_of_its_attributes() -> None:
    images = Images(
        labels=[0, 1],
        videos=["real/a", "x/b"],
        methods=["real", "x"],
        names=["a", "b"],
        description="two",
        fingerprint="f",
        image_size=4,
        pixels=np.stack([np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 9, np.uint8)]),
    )
    assert [int(image.max()) for image, _, _ in (images[0], images[1])] == [0, 9]
