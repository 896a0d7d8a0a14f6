"""What is wrong with a data folder, in one line that names the file and what was wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deepfake.common.cli import UserError
from deepfake.data import open_split
from deepfake.dataset.manifest import SPLITS, list_images
from tests.deepfake.image_folders import manifest_folder, picture, split_folder, write


def error_of(root: Path | str, split: str = "train", size: int = 8) -> str:
    with pytest.raises(UserError) as caught:
        open_split(root, split, size)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_code == 1
    return message


def test_no_folder_a_file_and_an_empty_folder(tmp_path: Path) -> None:
    assert f"{tmp_path / 'none'}: no such folder" in error_of(tmp_path / "none")
    assert "not a folder" in error_of(picture(tmp_path / "a.png"))
    (tmp_path / "empty").mkdir()
    assert f"{tmp_path / 'empty'}: no images in it (wanted real/ and fake/" in error_of(tmp_path / "empty")


def test_bad_split_and_size() -> None:
    assert "split 'dev' (wanted train, val or test)" in error_of("demo", "dev")
    assert "image size 0" in error_of("demo", size=0)


def test_one_class_only(tmp_path: Path) -> None:
    for split in SPLITS:
        picture(tmp_path / split / "real" / "1.png")
    assert f"{tmp_path}: the train split has 1 real images and no fake one" in error_of(tmp_path)


def test_an_empty_split(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "real" / "1.png")
    picture(tmp_path / "train" / "fake" / "1.png")
    assert "the val split is empty (found 2 train images)" in error_of(tmp_path, "val")


def test_an_empty_split_advises_on_file_names(tmp_path: Path) -> None:
    for number in range(9):
        picture(tmp_path / "real" / f"img_{number}.png")
        picture(tmp_path / "fake" / f"img_{number}.png")
    empty = next(split for split in SPLITS if not [r for r in list_images(tmp_path)[0] if r.split == split])
    assert 'file names up to the first "_" or "-": use train/, val/, test/ folders' in error_of(tmp_path, empty)


def test_a_link_to_nowhere_is_named(tmp_path: Path) -> None:
    split_folder(tmp_path)
    (tmp_path / "train" / "real" / "gone.png").symlink_to("nowhere.png")
    assert "gone.png: cannot be read (No such file" in error_of(tmp_path)


def test_classes_beside_splits(tmp_path: Path) -> None:
    split_folder(tmp_path)
    picture(tmp_path / "real" / "1.png")
    assert "holds both real/ and train/" in error_of(tmp_path)


def test_a_damaged_header_is_named_when_opening(tmp_path: Path) -> None:
    split_folder(tmp_path)
    bad = tmp_path / "train" / "real" / "bad.jpg"
    bad.write_bytes(b"no image")
    assert f"{bad}: not a readable image" in error_of(tmp_path)
    assert len(open_split(tmp_path, "val", 8)) == 4


def test_a_damaged_body_is_named_when_reading(tmp_path: Path) -> None:
    split_folder(tmp_path)
    bad = tmp_path / "train" / "real" / "0.png"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(bad)
    bad.write_bytes(bad.read_bytes()[:2000])
    images = open_split(tmp_path, "train", 8)
    with pytest.raises(UserError, match=r"0\.png: not a readable image"):
        images[0]
    bad.unlink()
    with pytest.raises(UserError, match=r"0\.png: no such image"):
        images[0]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"path": "../out.png"}, "path '../out.png' leads out of the folder"),
        ({"path": "real/../../out.png"}, "leads out of the folder"),
        ({"path": "/etc/passwd"}, "path '/etc/passwd' leads out of the folder"),
        ({"path": "Deepfakes/../real/train_0.png"}, "'real/train_0.png' is already on line 1"),
        ({"path": None}, "path None (wanted a text)"),
        ({"path": 3}, "path 3 (wanted a text)"),
        ({"path": ""}, "path '' (wanted a text)"),
        ({"label": 2}, "label 2 (wanted 0 for real or 1 for fake)"),
        ({"label": "fake"}, "label 'fake' (wanted"),
        ({"label": True}, "label True (wanted"),
        ({"label": None}, "label None (wanted"),
        ({"split": "dev"}, "split 'dev' (wanted train, val or test)"),
        ({"split": ["train"]}, "split ['train'] (wanted"),
        ({"method": "real"}, "method 'real' with label 1"),
        ({"label": 0}, "method 'Deepfakes' with label 0"),
        ({"video": 5}, "video 5 (wanted a text)"),
        ({"video": "val7"}, "video 'val7' is in val, but in train on line 4"),
        ("{broken", "not JSON"),
        ("[1, 2]", "a JSON list (wanted an object)"),
        ('{"path": "\xff', "not JSON"),
    ],
)
def test_a_bad_manifest_line_is_named_with_its_number(
    tmp_path: Path, change: dict[str, Any] | str, problem: str
) -> None:
    root, rows = manifest_folder(tmp_path)
    line: Any = change
    if isinstance(change, dict):
        line = {**rows[3], **change}
    number = 4
    if problem.startswith("video 'val7'"):  # the later of the two lines is named
        number = 5
    write(root, [*rows[:3], line, *rows[4:]])
    message = error_of(root)
    assert message.startswith(f"{root / 'manifest.jsonl'}, line {number}: ")
    assert problem in message


def test_a_manifest_without_lines_and_one_with_a_missing_file(tmp_path: Path) -> None:
    root, rows = manifest_folder(tmp_path)
    assert "lists no images" in error_of(write(root, [""]))
    write(root, rows)
    (root / rows[0]["path"]).unlink()
    assert f"{root / rows[0]['path']}: no such image" in error_of(root)
