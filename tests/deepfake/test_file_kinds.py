"""What a file is: by content in every command, named or found; what is left out is counted, what fails is named."""

from __future__ import annotations

import base64
import os
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut

pytest.importorskip("dlib", reason="finding faces needs dlib-bin")
pytest.importorskip("av", reason="decoding videos needs PyAV")

import predict
import prepare
from deepfake.common.cli import UserError
from deepfake.dataset.manifest import list_images
from deepfake.forging.portrait_files import list_photos
from deepfake.media import found_files, image_files
from deepfake.media.file_kinds import is_video, kind_of
from deepfake.media.found_files import find_media
from deepfake.media.image_files import FORMATS, read_rgb
from deepfake.sources.finding import find_sources
from deepfake.sources.source import Selection
from tests.deepfake.prepare_for_tests import OPTIONS, crops, run_here
from tests.deepfake.scripts import call, call_json
from tests.deepfake.videos_for_tests import save_streams, save_video

IMAGES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif", "GIF": ".gif", "AVIF": ".avif",
          "JPEG2000": ".jp2", "PPM": ".ppm"}  # fmt: skip
VIDEOS = {".mp4": "libx264", ".mov": "libx264", ".mkv": "libx264", ".webm": "libvpx", ".avi": "mpeg4",
          ".mts": "libx264", ".mpg": "mpeg1video", ".3gp": "mpeg4", ".wmv": "wmv2", ".flv": "flv"}  # fmt: skip
FACE = astronaut()[:288, 64:352]
HEIC = base64.b64decode(  # 96 x 64 pixels, left half red, right half blue, the upper half darker; to be turned left
    "AAAAGGZ0eXBoZWljAAAAAG1pZjFoZWljAAABMW1ldGEAAAAAAAAAIWhkbHIAAAAAAAAAAHBpY3QAAAAAAAAAAAAAAAAAAAAADnBpdG0AAAAA"
    "AAEAAAAeaWxvYwAAAABEAAABAAEAAAABAAABUQAAAEsAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAAALVpcHJwAAAAl2lw"
    "Y28AAAByaHZjQwEECAAAAJ+oAAAAAB7wAPz9+PgAAA8DoAABABdAAQwB//8ECAAAAwCfqAAAAwAAHroCQKEAAQAmQgEBBAgAAAMAn6gAAAMA"
    "AB6gMIEFlupJMrmgIAAAAwAgAAADAyGiAAEAB0QBwXKwIkAAAAAUaXNwZQAAAAAAAABgAAAAQAAAAAlpcm90AQAAABZpcG1hAAAAAAAAAAEA"
    "AQOBAoMAAABTbWRhdAAAAEcoAa94xnrwiz//5pZ/7rOSSvWuHOtPMI/tR5cE3/NqKr9hSqtmREuO+wL7Ymdz66/vHuPi5f/iDrKv0dTkSK5z"
    "1h5jiJcVvA=="
)


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> Path:
    """An image or a short video of each kind, with the usual name."""
    folder = tmp_path_factory.mktemp("media")
    for kind, suffix in IMAGES.items():
        if kind in Image.SAVE and kind in FORMATS:
            Image.fromarray(FACE).save(folder / f"image{suffix}", format=kind)
    for suffix, codec in VIDEOS.items():
        save_video(folder / f"video{suffix}", [FACE] * 3, codec)
    return folder


# The rule


def test_the_content_says_what_a_file_is_and_not_its_name(media, tmp_path):
    for file in sorted(media.iterdir()):
        for name in ("x.jpg", "x.mp4", "x.JFIF", "x.txt", "x"):
            shutil.copy(file, tmp_path / name)
            assert kind_of(tmp_path / name) == file.stem, (file.name, name)


def test_a_damaged_file_is_what_its_name_says_so_that_it_is_reported(tmp_path):
    for name, kind in {"a.jpg": "image", "a.HEIC": "image", "a.mts": "video", "a.txt": None, "a": None}.items():
        for content in (b"", b"nothing known", bytes(3000)):
            (tmp_path / name).write_bytes(content)
            assert kind_of(tmp_path / name) == kind
    with pytest.raises(UserError, match=r"a\.txt: neither an image nor a video"):
        is_video(tmp_path / "a.txt")


@pytest.mark.parametrize(
    "text", ["BMW makes cars", "P6 is a processor", "Python", "Pfizer", "GIF89", "FLV", "free\nfree ware"]
)
def test_a_text_that_begins_as_a_picture_does_is_none(tmp_path, text):
    (tmp_path / "a.txt").write_text(text)
    assert kind_of(tmp_path / "a.txt") is None


def test_sound_is_no_video_unless_its_name_says_so(tmp_path):
    for name, kind in (("a.m4a", None), ("a.mp4", "video")):
        save_streams(tmp_path / name, [], sound=True)
        assert kind_of(tmp_path / name) == kind


def test_a_heic_photo_is_an_image_and_named_without_what_reads_it(tmp_path):
    photo = tmp_path / "IMG_1.MOV"
    photo.write_bytes(HEIC)
    assert kind_of(photo) == "image"
    if "HEIF" not in FORMATS:
        words = r'IMG_1\.MOV: not a readable image \(HEIC needs pi-heif: pip install -e "\.\[heic\]"'
        with pytest.raises(UserError, match=words):
            read_rgb(photo)


def test_heic_is_read_and_turned(tmp_path):
    pytest.importorskip("pi_heif", reason="HEIC needs pi-heif, of the extra heic")
    (tmp_path / "IMG_1.HEIC").write_bytes(HEIC)
    image = read_rgb(tmp_path / "IMG_1.HEIC").astype(int)
    assert image.shape == (96, 64, 3)
    for (y, x), colour in {(10, 10): (15, 15, 100), (10, 50): (30, 30, 200), (80, 50): (200, 30, 30)}.items():
        assert np.abs(image[y, x] - colour).max() < 8


@pytest.mark.parametrize("kind", ["EPS", "PDF", "ICO", "DDS", "TGA", "IM"])
def test_formats_that_are_not_read_are_refused_whatever_the_name(tmp_path, kind):
    file = tmp_path / "photo.jpg"
    Image.new("RGB", (16, 16)).save(file, format=kind)
    with pytest.raises(UserError, match=r"photo\.jpg: not a readable image \((the format|damaged)"):
        read_rgb(file)


def test_every_exception_of_a_decoder_is_one_error_line(tmp_path, monkeypatch):
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    for error in (
        RuntimeError("Failed to decode image"),
        KeyError(3),
        IndexError(),
        MemoryError(),
        ZeroDivisionError(),
    ):

        def broken(*args, error=error, **kwargs):
            raise error

        monkeypatch.setattr(image_files.ImageOps, "exif_transpose", broken)
        with pytest.raises(UserError, match=r"a\.png: not a readable image \(.+\)"):
            read_rgb(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["AVIF", "WEBP", "JPEG2000"])
def test_a_damaged_picture_does_not_stop_the_others(run, tmp_path, capsys, kind):
    if kind not in Image.SAVE or kind not in FORMATS:
        pytest.skip(f"this Pillow has no {kind}")
    good, bad = tmp_path / "b.png", tmp_path / "a.jpg"
    Image.fromarray(FACE).save(good)
    Image.fromarray(FACE).save(bad, format=kind)
    content = bad.read_bytes()
    bad.write_bytes(content[: len(content) // 3])
    code, lines, errors = call_json(predict.main, capsys, run, bad, good, "--crop", "none")
    assert code == 1 and [line["path"] for line in lines] == [str(good)]
    assert len(errors) == 1 and errors[0].startswith(f"error: {bad}: not a readable image (")


@pytest.mark.parametrize("name", ["pipe.jpg", "pipe.mp4", "pipe"])
def test_a_pipe_is_not_opened(run, tmp_path, capsys, name):
    os.mkfifo(tmp_path / name)
    Image.fromarray(FACE).save(tmp_path / "a.png")
    code, lines, errors = call_json(predict.main, capsys, run, tmp_path / name, "/dev/zero", tmp_path, "--crop", "none")
    assert code == 1 and [line["path"] for line in lines] == [str(tmp_path / "a.png")]
    assert errors == [
        f"error: {tmp_path / name}: a pipe (wanted a file)",
        "error: /dev/zero: a device or a socket (wanted a file)",
        f"{tmp_path}: left out 1 pipes or devices ({name})",
    ]


# What is found


def test_a_phone_s_folder_is_judged_or_named(run, media, tmp_path, capsys):
    phone = tmp_path / "DCIM"
    shutil.copytree(media, phone)
    Image.fromarray(FACE).save(phone / "download.JFIF", format="JPEG")
    (phone / "IMG_1.HEIC").write_bytes(HEIC[:300])  # damaged, for those who can read it
    (phone / "IMG_1.AAE").write_text("<plist>")
    (phone / ".thumbnails").mkdir()
    (phone / "@eaDir/image.jpg").mkdir(parents=True)
    Image.fromarray(FACE).save(phone / "@eaDir/image.jpg/SYNOPHOTO_THUMB_M.jpg")
    (phone / "gone.jpg").symlink_to("nowhere.jpg")
    code, lines, errors = call_json(predict.main, capsys, run, phone, "--frames", 1)
    assert [Path(line["path"]).name for line in lines] == sorted([*os.listdir(media), "download.JFIF"])
    assert code == 1 and len(errors) == 3
    assert errors[0] == (
        f"{phone}: left out 1 hidden (.thumbnails), 1 folders of a network drive or archive (@eaDir), "
        "1 neither image nor video (IMG_1.AAE)"
    )
    assert errors[1] == f"error: {phone}/gone.jpg: cannot be read (No such file or directory)"
    assert errors[2].startswith(f"error: {phone}/IMG_1.HEIC: not a readable image (")


def test_a_folder_without_permission_is_named(run, tmp_path, capsys, monkeypatch):
    Image.fromarray(FACE).save(tmp_path / "a.png")
    (tmp_path / "private").mkdir()
    scandir = os.scandir

    def refusing(path):
        if str(path).endswith("private"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(found_files.os, "scandir", refusing)
    code, lines, errors = call_json(predict.main, capsys, run, tmp_path, "--crop", "none")
    assert code == 1 and len(lines) == 1
    assert errors == [f"error: {tmp_path}/private: cannot be read (Permission denied)"]
    for folder in ("real", "fake"):
        shutil.copytree(tmp_path, tmp_path.parent / "in" / folder)
    for read in (list_images, lambda root: find_sources(root, Selection("c23"))):
        with pytest.raises(UserError, match=r"in/real/private: cannot be read \(Permission denied\)"):
            read(tmp_path.parent / "in")


def data_folder(root: Path) -> Path:
    """Photos in train/, valid/ and test/, and other files inside and beside."""
    for split in ("train", "valid", "test"):
        for name in ("real", "fake"):
            (root / split / name).mkdir(parents=True)
            Image.fromarray(FACE).save(root / split / name / "a.jpg")
    Image.fromarray(FACE).save(root / "train/real/download.jfif", format="JPEG")
    Image.fromarray(FACE).save(root / "train/real/no_suffix", format="JPEG")
    save_video(root / "train/fake/b.3gp", [FACE] * 2, "mpeg4")
    (root / "train/real/notes.txt").write_text("notes")
    Image.fromarray(FACE).save(root / "beside.jpg")
    (root / "extra").mkdir()
    (root / "train/new").mkdir()
    return root


def test_training_reads_valid_as_val_and_counts_what_it_leaves_out(tmp_path, capsys):
    root = data_folder(tmp_path / "in")
    records, _ = list_images(root)
    list_images(root)  # as for each split
    assert [record.path for record in records if record.split == "val"] == ["valid/real/a.jpg", "valid/fake/a.jpg"]
    assert [record.path for record in records if record.split == "train"] == [
        "train/real/a.jpg", "train/real/download.jfif", "train/real/no_suffix", "train/fake/a.jpg",
    ]  # fmt: skip
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"{root}: left out 2 beside train/ and valid/ and test/ (beside.jpg, ...), "
        "1 beside real/ and fake/ (train/new), 1 neither image nor video (train/real/notes.txt), "
        "1 videos (train/fake/b.3gp)"
    )


def test_prepare_sees_the_same_files_and_videos_too(tmp_path, capsys):
    root = data_folder(tmp_path / "in")
    run_here(root, tmp_path / "out", "--crop", "none", *OPTIONS, "--workers", 1)
    assert {(row["split"], row["method"], row["video"]) for row in crops(tmp_path / "out")} == {
        ("train", "real", "train__a"), ("train", "real", "download"), ("train", "real", "no_suffix"),
        ("train", "fake", "train__a"), ("train", "fake", "b"), ("val", "real", "val__a"), ("val", "fake", "val__a"),
        ("test", "real", "test__a"), ("test", "fake", "test__a"),
    }  # fmt: skip
    errors = capsys.readouterr().err
    assert f"{root}: left out 2 beside train/ and valid/ and test/" in errors and "videos (train" not in errors


@pytest.mark.parametrize(
    "name, words", [("train/real", "both real/ and train/"), ("validation/real", "both val/ and validation/")]
)
def test_prepare_refuses_what_training_refuses(tmp_path, capsys, name, words):
    for folder in ("train/real", "train/fake", "val/real", "val/fake", "real" if name == "train/real" else name):
        (tmp_path / "in" / folder).mkdir(parents=True)
        Image.fromarray(FACE).save(tmp_path / "in" / folder / "a.jpg")
    with pytest.raises(UserError, match=words):
        list_images(tmp_path / "in")
    code, _, errors = call(prepare.main, capsys, tmp_path / "in", tmp_path / "out")
    assert code == 2 and words in errors[-1]


def test_a_live_photo_s_two_files_are_two_sources(tmp_path):
    for name in ("real", "fake"):
        (tmp_path / "in/test" / name).mkdir(parents=True)
        Image.fromarray(FACE).save(tmp_path / f"in/test/{name}/IMG_7.JPG")
        save_video(tmp_path / f"in/test/{name}/IMG_7.MOV", [FACE] * 3)
    run_here(tmp_path / "in", tmp_path / "out", *OPTIONS, "--workers", 1)
    found = [(row["method"], row["video"], row["frame"]) for row in crops(tmp_path / "out")]
    pair = [("IMG_7", None), ("IMG_7__mov", 0), ("IMG_7__mov", 2)]
    assert found == [(method, video, frame) for method in ("fake", "real") for video, frame in pair]


def test_photos_and_videos_of_one_name_have_the_suffix_in_their_ids(tmp_path):
    for name in ("real", "fake"):
        (tmp_path / "in/test" / name).mkdir(parents=True)
        for suffix in ("jpg", "png", "webp"):
            Image.fromarray(FACE).save(tmp_path / f"in/test/{name}/IMG_2.{suffix}")
        save_video(tmp_path / f"in/test/{name}/IMG_2.mov", [FACE] * 3)
    sources = find_sources(tmp_path / "in", Selection("c23"))
    assert sorted(source.video for source in sources if source.label) == [
        "IMG_2", "IMG_2__mov", "IMG_2__png", "IMG_2__webp"
    ]  # fmt: skip


def test_a_video_that_is_refused_is_a_video_whatever_its_name(tmp_path):
    """Else a count of what is neither image nor video would hide it."""
    hdr = save_video(tmp_path / "a.mp4", [FACE] * 2, transfer=16).rename(tmp_path / "IMG_0001")
    assert kind_of(hdr) == "video"
    assert kind_of(save_streams(tmp_path / "a.m4a", [], sound=True).rename(tmp_path / "sound.bin")) is None


def test_portraits_are_found_by_content(tmp_path, capsys):
    Image.fromarray(FACE).save(tmp_path / "b.jfif", format="JPEG")
    Image.fromarray(FACE).save(tmp_path / "a.avif" if "AVIF" in FORMATS else tmp_path / "a.gif")
    (tmp_path / "more").mkdir()
    save_video(tmp_path / "c.mp4", [FACE] * 2)
    assert [photo.path.stem for photo in list_photos(tmp_path)] == ["a", "b"]
    assert capsys.readouterr().err == f"{tmp_path}: left out 1 folders (more), 1 videos (c.mp4)\n"


def test_folders_that_link_to_each_other_end(tmp_path):
    for name, other in (("a", "b"), ("b", "a")):
        (tmp_path / name).mkdir()
        Image.fromarray(FACE).save(tmp_path / name / "1.png")
        (tmp_path / name / "link").symlink_to(f"../{other}")
    found = find_media(tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in found.files] == [
        "a/1.png", "a/link/1.png", "b/1.png", "b/link/1.png",
    ]  # fmt: skip
    assert not found.unreadable


def test_a_socket_is_left_out_and_a_missing_folder_holds_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s.jpg")
        found = find_media(tmp_path)
    assert found.left_out == {"pipes or devices": [tmp_path / "s.jpg"]} and not found.files
    assert find_media(tmp_path / "nowhere") == found_files.Found()
    assert np.array_equal(find_media(tmp_path / "nowhere").files, [])
