"""Preparation: the same crops and hash on every run, one tracked face, splits kept, nothing lost or incomplete."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("dlib", reason="finding faces needs dlib-bin")
pytest.importorskip("av", reason="decoding videos needs PyAV")

import prepare
from deepfake.common.cli import UserError
from deepfake.common.texts import read_json
from deepfake.dataset.manifest import list_images
from deepfake.media.image_files import read_rgb
from deepfake.media.video import sample_frames
from deepfake.preparing import tasks
from deepfake.preparing.crops import is_done
from tests.archives import unpack
from tests.deepfake.portraits_for_tests import astronaut_as, save_rgb
from tests.deepfake.prepare_for_tests import (
    OPTIONS,
    SCRIPT,
    clip,
    crops,
    moving,
    problems,
    rows,
    run_here,
    run_script,
    save_tree,
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    return save_tree(tmp_path_factory.mktemp("ffpp"))


@pytest.fixture(scope="module")
def prepared(tree, tmp_path_factory) -> Path:
    destination = tmp_path_factory.mktemp("crops") / "c23"
    done = run_script(tree, destination, *OPTIONS, "--workers", 1)
    assert done.returncode == 0, done.stderr
    digest = hashlib.sha256((destination / "manifest.jsonl").read_bytes()).hexdigest()
    assert done.stdout.strip().endswith(f"sha256 {digest}")
    return destination


def test_manifest_describes_every_crop(prepared, tree):
    listed = rows(prepared)
    assert listed == sorted(listed, key=lambda row: row["path"])
    assert Counter(row["method"] for row in listed) == {"real": 12, "Deepfakes": 12, "FaceSwap": 12}
    for row in listed:
        content = (prepared / row["path"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == row["sha256"]
        assert cv2.imread(str(prepared / row["path"])).shape == (96, 96, 3)
        assert row["label"] == (row["method"] != "real") and row["frame"] in (1, 3), "floor((i + 0.5) * 5 / 2)"
        assert len(row["box"]) == 4 and row["score"] > 0 and row["faces"] == 1 and "dlib-hog" in row["detector"]


def test_training_reads_the_manifest(prepared):
    records, _ = list_images(prepared)
    assert Counter((record.split, record.label) for record in records) == {
        (split, label): (4, 8)[label] for split in ("train", "val", "test") for label in (0, 1)
    }


def test_manifest_is_the_same_with_two_workers(tree, prepared, tmp_path):
    done = run_script(tree, tmp_path / "two", *OPTIONS, "--workers", 2)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "two/manifest.jsonl").read_bytes() == (prepared / "manifest.jsonl").read_bytes()


def test_only_missing_or_changed_crops_are_made_again(tree, prepared, tmp_path, monkeypatch):
    shutil.copytree(prepared, tmp_path / "crops")
    before = (tmp_path / "crops/manifest.jsonl").read_bytes()
    shutil.rmtree(tmp_path / "crops/real/000")
    (tmp_path / "crops/real/001/00003.png").unlink()
    (tmp_path / "crops/real/002/00001.png").write_bytes(b"cut off")
    (tmp_path / "crops/real/003/record.json").write_text("{")
    calls = []
    prepare_one = prepare.prepare_one
    monkeypatch.setattr(prepare, "prepare_one", lambda task: calls.append(task.folder) or prepare_one(task))
    run_here(tree, tmp_path / "crops", *OPTIONS, "--workers", 1)
    assert [folder.name for folder in calls] == ["000", "001", "002", "003"], "absent, or not as recorded"
    assert (tmp_path / "crops/manifest.jsonl").read_bytes() == before


def test_killed_run_leaves_no_manifest_and_continues(tree, prepared, tmp_path):
    command = [sys.executable, SCRIPT, tree, tmp_path / "crops", *OPTIONS, "--workers", "1"]
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("crops/real/[!.]*/record.json")) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "crops/manifest.jsonl").exists()
    done = run_script(tree, tmp_path / "crops", *OPTIONS, "--workers", 1)
    assert done.returncode == 0 and "prepared already" in done.stderr
    assert (tmp_path / "crops/manifest.jsonl").read_bytes() == (prepared / "manifest.jsonl").read_bytes()


def test_a_full_disk_leaves_no_half_picture_and_the_next_run_continues(tree, prepared, tmp_path, monkeypatch):
    write, left = Path.write_bytes, [3]

    def until_full(path, content):
        if path.suffix == ".png" and not left[0]:
            write(path, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left[0] -= path.suffix == ".png"
        return write(path, content)

    out = tmp_path / "out"
    with monkeypatch.context() as full:
        full.setattr(Path, "write_bytes", until_full)
        with pytest.raises(UserError, match=r"^cannot write .*: No space left on device$"):
            run_here(tree, out, *OPTIONS, "--workers", 1)
    pictures = sorted(out.rglob("*.png"))
    assert len(pictures) == 2 and all(read_rgb(picture).shape == (96, 96, 3) for picture in pictures)
    assert not (out / "manifest.jsonl").exists() and not list(out.rglob("*.partial"))
    run_here(tree, out, *OPTIONS, "--workers", 1)
    assert (out / "manifest.jsonl").read_bytes() == (prepared / "manifest.jsonl").read_bytes()


def test_changed_video_is_prepared_again(tree, tmp_path):
    shutil.copytree(tree, tmp_path / "tree")
    run_here(tmp_path / "tree", tmp_path / "crops", *OPTIONS, "--workers", 1)
    before = {row["path"]: row["sha256"] for row in rows(tmp_path / "crops")}
    changed = next((tmp_path / "tree/manipulated_sequences/Deepfakes/c23/videos").iterdir())
    clip(changed, moving(20))
    run_here(tmp_path / "tree", tmp_path / "crops", *OPTIONS, "--workers", 1)
    after = {row["path"]: row["sha256"] for row in rows(tmp_path / "crops")}
    assert {path for path in after if after[path] != before[path]} == {
        f"Deepfakes/{changed.stem}/{frame:05d}.png" for frame in (1, 3)
    }


def test_other_settings_do_not_mix(tree, prepared):
    before = (prepared / "manifest.jsonl").read_bytes()
    with pytest.raises(UserError, match="another size"):
        run_here(tree, prepared, "--frames", "2", "--size", "100")
    assert (prepared / "manifest.jsonl").read_bytes() == before


def test_a_folder_of_version_0_1_is_continued(tmp_path, monkeypatch):
    """The settings that 0.1 stored, and the digest of them in each record, are what the same command gives now."""
    unpack(Path(__file__).parents[1] / "stored/0.1.tar.xz", tmp_path)
    stored, record = (read_json(tmp_path / f"0.1/data/{name}") for name in ("prepare.json", "real/test0/record.json"))
    for name, module in (("av", tasks.av), ("opencv", tasks.cv2), ("numpy", tasks.np)):
        monkeypatch.setattr(module, "__version__", stored["versions"][name])
    for name in ("real/test0.png", "fake/swap/test0.png"):
        save_rgb(tmp_path / "in/test" / name, astronaut_as(0))
    args = prepare.parse_arguments([str(tmp_path / "in"), str(tmp_path / "0.1/data"), "--crop", "none", "--size", "64"])
    listed, _, settings = tasks.list_tasks(args)
    assert settings == stored
    listed[0].source.path.write_bytes(b"0" * record["source"][0])
    assert is_done(listed[0], copied=True)


def test_foreign_folder_is_refused(tree, tmp_path):
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(UserError, match="new or empty"):
        run_here(tree, tmp_path, *OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_damaged_videos_are_named_and_the_others_kept(tree, tmp_path):
    shutil.copytree(tree, tmp_path / "tree")
    damaged = sorted((tmp_path / "tree/original_sequences/youtube/c23/videos").iterdir())[0]
    damaged.write_bytes(damaged.read_bytes()[:900])
    done = run_script(tmp_path / "tree", tmp_path / "crops", *OPTIONS, "--workers", 1)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith(f"error: {damaged}")
    assert not (tmp_path / "crops/manifest.jsonl").exists()
    assert len(list((tmp_path / "crops").glob("*/*/*.png"))) == 2 * 17
    done = run_script(tmp_path / "tree", tmp_path / "crops", *OPTIONS, "--workers", 1, "--allow-missing")
    assert done.returncode == 0 and f"{damaged}: not a readable video" in done.stderr
    ((method, video, problem),) = problems(tmp_path / "crops")
    assert (method, video) == ("real", "000") and problem.startswith("not a readable video (")
    assert len(list_images(tmp_path / "crops")[0]) == 2 * 17


def test_missing_videos_are_listed(tree, tmp_path):
    shutil.copytree(tree, tmp_path / "tree")
    for folder, name in (("original_sequences/youtube", "004"), ("manipulated_sequences/FaceSwap", "005_004")):
        (tmp_path / f"tree/{folder}/c23/videos/{name}.mp4").unlink()
    done = run_script(tmp_path / "tree", tmp_path / "crops", *OPTIONS, "--workers", 1)
    assert done.returncode == 2 and not (tmp_path / "crops").exists()
    assert "youtube/c23/videos: 004.mp4" in done.stderr and "FaceSwap/c23/videos: 005_004.mp4" in done.stderr
    assert "2 videos are missing" in done.stderr.splitlines()[-1]
    run_here(tmp_path / "tree", tmp_path / "crops", *OPTIONS, "--workers", 1, "--allow-missing")
    assert problems(tmp_path / "crops") == [("FaceSwap", "005_004", "missing"), ("real", "004", "missing")]


def test_missing_faces_are_held_or_dropped_and_reported(tmp_path, capsys):
    """Frames 0-4 show a face, 5-9 do not; another video shows none."""
    blank = [np.full((240, 240, 3), 100, np.uint8)] * 5
    clip(tmp_path / "in/train/real/half.mp4", moving(0) + blank)
    clip(tmp_path / "in/train/real/none.mp4", blank)
    clip(tmp_path / "in/train/fake/full.mp4", moving(1))
    for policy, count in (("hold", 4), ("drop", 2)):
        out = tmp_path / policy
        run_here(tmp_path / "in", out, "--frames", 4, "--missing", policy, "--workers", 1)
        half = [row for row in crops(out) if row["video"] == "half"]
        assert len(half) == count
        held = [row for row in half if row["score"] is None]
        assert all(row["box"] == half[1]["box"] and row["faces"] == 0 for row in held) and len(held) == count - 2
        dropped = [("real", "half", "no face")] * 2 if policy == "drop" else []
        assert problems(out) == [*dropped, ("real", "none", "no face in any of 4 frames")]
        reported = capsys.readouterr().err
        assert "real/none: no face in any of 4 frames" in reported
        half_reported = {"hold": "real/half: no face in 2 frames, cropped", "drop": "real/half, frame 6: no face"}
        assert half_reported[policy] in reported


def test_several_faces_are_reported_and_one_is_kept(tmp_path, capsys):
    big = moving(0)
    small = cv2.resize(astronaut_as(1), (200, 200), interpolation=cv2.INTER_AREA)
    pair = [np.concatenate([image, np.pad(small, ((40, 0), (0, 0), (0, 0)))], axis=1) for image in big]
    clip(tmp_path / "in/test/real/two.mp4", pair)
    clip(tmp_path / "in/test/fake/one.mp4", moving(2))
    run_here(tmp_path / "in", tmp_path / "out", *OPTIONS, "--workers", 1)
    two = [row for row in crops(tmp_path / "out") if row["video"] == "two"]
    assert [row["faces"] for row in two] == [2, 2] and all(row["box"][2] < 240 for row in two)
    assert "several faces in 1 videos" in capsys.readouterr().err


def test_no_face_anywhere_is_an_error(tmp_path):
    for name in ("real", "fake"):
        save_rgb(tmp_path / f"in/{name}/a.png", np.full((90, 90, 3), 100, np.uint8))
    with pytest.raises(UserError, match="no face found in any of 2"):
        run_here(tmp_path / "in", tmp_path / "out", *OPTIONS)
    assert not (tmp_path / "out/manifest.jsonl").exists()


def test_folder_of_photos(tmp_path):
    for person in range(3):
        save_rgb(tmp_path / f"in/val/real/{person}_1.png", astronaut_as(person))
        save_rgb(tmp_path / f"in/val/fake/Swap/{person}_1.jpg", astronaut_as(person + 3))
    run_here(tmp_path / "in", tmp_path / "out", *OPTIONS, "--format", "jpg", "--workers", 1)
    listed = rows(tmp_path / "out")
    assert Counter((row["method"], row["split"], row["frame"]) for row in listed) == {
        ("real", "val", None): 3,
        ("Swap", "val", None): 3,
    }
    assert all(row["path"].endswith(".jpg") for row in listed)


def test_a_photo_and_a_folder_of_one_name_get_different_crops(tmp_path):
    """Of `a.png` and a folder `a/`, the crops of one must not be inside those of the other."""
    for name in ("real/a.png", "real/a/b.png", "fake/Swap/a.png", "fake/Swap/a/b.png"):
        save_rgb(tmp_path / "in/test" / name, astronaut_as(len(name)))
    run_here(tmp_path / "in", tmp_path / "out", *OPTIONS, "--workers", 1)
    found = [(row["method"], row["video"]) for row in rows(tmp_path / "out")]
    assert found == [("Swap", "a"), ("Swap", "a"), ("real", "a"), ("real", "a")]
    assert len({row["path"] for row in rows(tmp_path / "out")}) == 4
    assert all((tmp_path / "out" / row["path"]).is_file() for row in rows(tmp_path / "out"))


@pytest.mark.parametrize("letter", ["x", "ä"])
def test_names_as_long_as_the_file_system_allows_are_prepared(tmp_path, letter):
    """255 bytes with the suffix; folders of such names make an id that no folder can have."""
    long = letter * (251 // len(letter.encode()))
    names = (f"{long}.png", f"{long[1:]}/{long[1:]}/a.png", f"{long[1:]}/{long[1:]}/b.png", "short.png")
    for number, name in enumerate(names):
        for top in ("train/real", "train/fake/Swap"):
            save_rgb(tmp_path / "in" / top / name, np.full((20, 20, 3), number * 50, np.uint8))
    for _ in range(2):
        run_here(tmp_path / "in", tmp_path / "out", "--crop", "none", "--size", 16, "--workers", 1)
        assert len(crops(tmp_path / "out")) == 8
        for row in crops(tmp_path / "out"):
            assert (tmp_path / "out" / row["path"]).is_file()
    videos = Counter(record.video for record in list_images(tmp_path / "out")[0])
    assert videos[f"real/{long[1:]}__{long[1:]}"] == 2, "the manifest has the whole id"


def test_unreadable_photo_is_named(tmp_path):
    save_rgb(tmp_path / "in/real/a.png", astronaut_as(0))
    save_rgb(tmp_path / "in/fake/b.png", astronaut_as(1))
    (tmp_path / "in/fake/b.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"b\.png: not a readable image"):
        run_here(tmp_path / "in", tmp_path / "out", *OPTIONS, "--workers", 1)


def test_a_colon_in_a_video_s_name_is_not_a_protocol(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clip(Path("12:30.mp4"), moving(0, frames=2))
    assert [index for index, _ in sample_frames("12:30.mp4", 5)] == [0, 1]


@pytest.mark.parametrize("bad", [["--size", "0"], ["--scale", "-1"], ["--compression", "c99"], ["--missing", "guess"],
                                 ["--shard", "3/2"], ["--shard", "0/2"], ["--profile", "best"], ["--splits", "dev"],
                                 ["--frames", "3", "--profile", "recce"], ["--boxes", "none.csv"],
                                 ["--index", "no.json"], ["--crop", "none", "--boxes", "a.csv"]])  # fmt: skip
def test_bad_arguments_exit_with_2(tree, tmp_path, bad):
    with pytest.raises(UserError) as caught:
        run_here(tree, tmp_path / "out", *bad)
    assert caught.value.exit_code == 2 and not (tmp_path / "out").exists()
