"""The cache of decoded images: same batches bit for bit, kept while current, refused if outdated, never incomplete."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cache
from deepfake.common import files
from deepfake.common.cli import UserError
from deepfake.data import open_split
from deepfake.dataset.batches import TrainBatches, load
from tests.deepfake.short_trainings import assert_same_run, train_small, write_images

SCRIPT = Path(cache.__file__)


@pytest.fixture(scope="module")
def built(noise_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("caches") / "cache"
    build(noise_images, out)
    return out


def build(noise_images: Path, out: Path, *more: str) -> None:
    cache.main([str(noise_images), str(out), "--image-size", "72", "--workers", "1", *more])


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_equal_bit_for_bit(noise_images: Path, built: Path, workers: int) -> None:
    plain, cached = open_split(noise_images, "train", 72), open_split(noise_images, "train", 72, built)
    compared = 0
    for epoch in range(2):
        batches = [TrainBatches(images, 8, seed=3, epoch=epoch) for images in (plain, cached)]
        for one, other in zip(*(load(each, workers) for each in batches), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
            compared += 1
    assert compared == 6


def test_training_with_a_cache_equals_training_without(noise_images: Path, tmp_path: Path) -> None:
    cache.main([str(noise_images), str(tmp_path / "cache"), "--image-size", "64", "--workers", "1"])
    runs = [train_small(noise_images, tmp_path / name, *more) for name, more in
            (("plain", ()), ("cached", ("--cache", str(tmp_path / "cache"))))]  # fmt: skip
    assert_same_run(*runs)


def test_pixels_come_from_the_cache_and_not_from_the_files(noise_images: Path, built: Path) -> None:
    images = open_split(noise_images, "val", 72, built)
    images.files = ["gone"] * len(images)
    assert images[3][0].shape == (3, 72, 72)
    assert len(pickle.dumps(images)) < 5000, "what a worker is sent is the file's name, not its pixels"


def test_the_file_is_a_plain_array(noise_images: Path, built: Path) -> None:
    array = np.load(built / "train-72.npy")
    assert array.dtype == np.uint8 and array.shape == (24, 72, 72, 3)
    assert sorted(path.name for path in built.iterdir()) == [
        ".lock", "train-72.json", "train-72.npy", "val-72.json", "val-72.npy",
    ]  # fmt: skip


def test_an_existing_array_is_kept(noise_images: Path, built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (built / "train-72.npy").stat().st_mtime_ns
    build(noise_images, built)
    assert capsys.readouterr().out.count("already built") == 2
    assert (built / "train-72.npy").stat().st_mtime_ns == before


def test_worker_processes_build_the_same_array(
    noise_images: Path, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "CHUNK_IMAGES", 5)
    cache.main([str(noise_images), str(tmp_path / "c"), "--image-size", "72", "--workers", "2", "--splits", "train"])
    assert (tmp_path / "c/train-72.npy").read_bytes() == (built / "train-72.npy").read_bytes()


def test_a_cache_of_other_data_is_refused_and_rebuilt(noise_images: Path, tmp_path: Path) -> None:
    other = write_images(tmp_path / "other", seed=1)
    (other / "train/real/000.png").rename(other / "train/real/zzz.png")
    build(noise_images, tmp_path / "c")
    with pytest.raises(UserError, match=r"train-72\.npy: made from other data \(another fingerprint\); run") as caught:
        open_split(other, "train", 72, tmp_path / "c")
    assert caught.value.exit_code == 2
    with pytest.raises(UserError, match=r"train-64\.npy: no such cache; run cache\.py .*--splits train"):
        open_split(noise_images, "train", 64, tmp_path / "c")
    build(other, tmp_path / "c")
    assert open_split(other, "train", 72, tmp_path / "c")[0][0].shape == (3, 72, 72)


@pytest.mark.parametrize("damage", ["cut", "text", "gone", "no description"])
def test_a_damaged_array_is_refused_and_rebuilt(noise_images: Path, tmp_path: Path, damage: str) -> None:
    build(noise_images, tmp_path / "c", "--splits", "val")
    file = tmp_path / "c/val-72.npy"
    whole = file.read_bytes()
    if damage == "gone":
        file.unlink()
    elif damage == "no description":
        file.with_suffix(".json").unlink()
    else:
        file.write_bytes(whole[:500] if damage == "cut" else b"text")
    with pytest.raises(UserError, match=r"val-72\.npy: .*cache\.py") as caught:
        open_split(noise_images, "val", 72, tmp_path / "c")
    assert caught.value.exit_code == 2
    build(noise_images, tmp_path / "c", "--splits", "val")
    assert file.read_bytes() == whole


@pytest.mark.slow
def test_a_killed_build_leaves_no_cache(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    root = write_images(tmp_path / "images")
    for number in range(150):
        Image.fromarray(rng.integers(0, 255, (300, 300, 3), dtype=np.uint8)).save(root / f"train/real/more{number}.png")
    command = [sys.executable, SCRIPT, root, tmp_path / "c", "--splits", "train", "--workers", "1"]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("c/.*.partial")) and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not list(tmp_path.glob("c/[!.]*")), "neither array nor description"
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "c/train-299.json").read_text())["images"] == 174
    assert not list(tmp_path.glob("c/.*.partial"))


def test_bad_input_is_refused_and_writes_nothing(
    noise_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusal(*arguments: str) -> str:
        with pytest.raises(UserError) as caught:
            cache.main(list(arguments))
        assert caught.value.exit_code == 2 and not (tmp_path / "c").exists()
        return str(caught.value)

    assert "no such folder" in refusal(str(tmp_path / "none"), str(tmp_path / "c"))
    assert "not a whole number from 16" in refusal(str(noise_images), str(tmp_path / "c"), "--image-size", "3")
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: type("Disk", (), {"free": 10}))
    assert refusal(str(noise_images), str(tmp_path / "c")).endswith("MB, but 10 bytes are free")


def test_the_demo_has_no_cache(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--cache needs --data FOLDER"):
        train_small("demo", tmp_path / "run", "--cache", str(tmp_path))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["./demo", "demo/", "../DIR/demo"])
def test_a_folder_called_demo_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Path("./demo") is Path("demo"), which as a text names the demonstration."""
    write_images(tmp_path / "demo", seed=3)
    monkeypatch.chdir(tmp_path)
    name = name.replace("DIR", tmp_path.name)
    cache.main([name, "cache", "--image-size", "64", "--splits", "val", "--workers", "1"])
    written = np.load(tmp_path / "cache/val-64.npy")
    assert np.array_equal(written[3], np.asarray(Image.open(tmp_path / "demo/val/real/003.png")))
    assert np.array_equal(open_split(Path("./demo"), "val", 64).crop(3), written[3])


@pytest.mark.parametrize("name", ["demo", "demo/0"])
def test_a_cache_of_the_demonstration_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="the demo's images are in memory") as caught:
        cache.main([name, str(tmp_path / "cache")])
    assert caught.value.exit_code == 2 and not (tmp_path / "cache").exists()


def test_a_size_is_shown_in_the_unit_in_which_it_is_not_zero() -> None:
    shown = [files.shown_size(size) for size in (0, 99, 100, 73_728, 99_999, 1e5, 1.6e7, 1e8, 2.5e12)]
    assert shown == ["0 bytes", "99 bytes", "0.1 kB", "73.7 kB", "100.0 kB", "0.1 MB", "16.0 MB", "0.1 GB", "2500.0 GB"]
