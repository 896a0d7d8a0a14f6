"""Data folders and the demo through one interface: images, splits, and one clear line for each error."""

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from deepfake.common.cli import UserError
from deepfake.data import open_split
from deepfake.dataset.images import Images, square, to_unit_range
from deepfake.dataset.manifest import SPLITS, group_of, list_images
from deepfake.dataset.subset import of_methods
from deepfake.media.image_files import read_rgb


def picture(path: Path, colour: tuple[int, int, int] = (90, 120, 200), size: tuple[int, int] = (20, 20)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def split_folder(root: Path) -> Path:
    for split in SPLITS:
        for number in range(2):
            picture(root / split / "real" / f"{number}.png", (10 * number, 0, 0))
            picture(root / split / "fake" / "Swap" / f"{number}.png", (10 * number, 255, 0))
    return root


def manifest_folder(root: Path) -> tuple[Path, list[dict[str, Any]]]:
    rows = []
    for split in SPLITS:
        for label, method in enumerate(("real", "Deepfakes")):
            for frame in range(2):
                path = f"{method}/{split}_{frame}.png"
                picture(root / path, (label * 200, frame * 100, 0))
                row = {
                    "path": path,
                    "label": label,
                    "split": split,
                    "method": method,
                    "video": f"{split}7",
                    "frame": frame,
                }
                rows.append({**row, "box": [0, 0, 9, 9], "score": 1.5, "detector": "d", "sha256": "0"})
    return root, rows


def write(root: Path, rows: list[Any]) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (root / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    return root


# What is read


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


# How an image is read


@pytest.mark.parametrize("kind", ["EPS", "ICO", "PDF"])
def test_a_format_that_starts_programs_or_decodes_when_opened_is_refused(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "photo.jpg"
    Image.new("RGB", (16, 16)).save(file, format=kind)
    with pytest.raises(UserError, match=r"photo\.jpg: not a readable image"):
        read_rgb(file)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_a_format_is_read_whatever_the_name_says(tmp_path: Path, kind: str) -> None:
    Image.new("RGB", (16, 16), (200, 0, 0)).save(tmp_path / "photo.dat", format=kind)
    assert abs(read_rgb(tmp_path / "photo.dat")[8, 8, 0].astype(int) - 200) < 8


def test_an_image_is_turned_upright_cut_and_antialiased(tmp_path: Path) -> None:
    tall = Image.new("RGB", (20, 60), (255, 0, 0))
    tall.paste((0, 0, 255), (0, 20, 20, 40))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    tall.save(tmp_path / "turned.png", exif=exif)
    pixels = read_rgb(tmp_path / "turned.png")
    assert pixels.shape == (20, 60, 3)
    assert (square(pixels, 20) == (0, 0, 255)).all()
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(square(stripes, 8).astype(int) - 127).max() < 12


def test_a_truncated_exif_part_is_one_error_line(tmp_path: Path) -> None:
    Image.new("RGB", (9, 7)).save(tmp_path / "x.png", exif=b"Exif\0\0II*\0")
    with pytest.raises(UserError, match=r"x\.png: not a readable image"):
        read_rgb(tmp_path / "x.png")


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "I;16"])
def test_other_colour_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    file = tmp_path / ("x.tiff" if mode == "CMYK" else "x.png")
    Image.new(mode, (9, 7)).save(file)
    assert read_rgb(file).shape == (7, 9, 3)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_grey_of_16_bits_is_scaled_and_not_cut_to_white(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"x.{suffix}"
    Image.fromarray(np.array([[0, 128, 255]], np.uint16) * 257).save(file)
    assert read_rgb(file)[0].tolist() == [[0] * 3, [128] * 3, [255] * 3]


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_32_bit_pixels_are_refused(tmp_path: Path, dtype: Any) -> None:
    Image.fromarray(np.ones((3, 3), dtype)).save(tmp_path / "x.tif")
    with pytest.raises(UserError, match=r"x\.tif: pixels of 32 bits"):
        read_rgb(tmp_path / "x.tif")


@given(height=st.integers(1, 40), width=st.integers(1, 40), size=st.integers(1, 40))
@settings(max_examples=50, deadline=None)
def test_any_photo_becomes_a_square(height: int, width: int, size: int) -> None:
    pixels = np.full((height, width, 3), 77, np.uint8)
    result = square(pixels, size)
    assert result.shape == (size, size, 3) and result.dtype == np.uint8
    assert (result == 77).all()


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


# What is wrong, in one line


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


def test_a_portrait_folder_of_real_photos() -> None:
    import os

    shared = Path(os.environ.get("PANET_SHARED", Path(__file__).resolve().parents[3] / "shared"))
    photos = sorted((shared / "data" / "london").glob("*.jpg"))
    if not photos:
        pytest.skip("no portraits beside the checkout (PANET_SHARED)")
    pixels = square(read_rgb(photos[0]), 64)
    assert pixels.shape == (64, 64, 3) and pixels.std() > 10


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
