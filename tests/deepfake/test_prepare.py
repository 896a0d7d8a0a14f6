"""Preparation: the same crops and hash on every run, one face by track, splits kept, nothing lost or half-written."""

from __future__ import annotations

import csv
import hashlib
import json
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

from portraits_for_tests import astronaut_as, save_rgb

import prepare
from cli import UserError
from faces import Face
from manifest import list_images
from sources import find_sources, read_splits
from tracks import boxes, follow
from video import sample_frames, write_clip

SCRIPT = Path(prepare.__file__)
OPTIONS = ["--frames", "2", "--size", "96"]


def run_script(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True)


def run_here(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["prepare.py", *map(str, arguments)])
    prepare.main()


def clip(path: Path, images: list[np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_clip(path, images, crf=23)


def moving(person: int, frames: int = 5) -> list[np.ndarray]:
    image = cv2.resize(astronaut_as(person), (240, 240), interpolation=cv2.INTER_AREA)
    return [np.roll(image, 4 * frame, axis=1) for frame in range(frames)]


def rows(folder: Path, name: str = "manifest.jsonl") -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A small FF++ tree whose ids are in FF++'s official splits."""
    root = tmp_path_factory.mktemp("ffpp")
    split_of = read_splits(root)
    ids = {split: [key for key, value in split_of.items() if value == split] for split in ("train", "val", "test")}
    pairs = {split: chosen[:2] for split, chosen in ids.items()}
    for person, key in enumerate(key for chosen in pairs.values() for key in chosen):
        clip(root / f"original_sequences/youtube/c23/videos/{key}.mp4", moving(person))
    for person, (a, b) in enumerate(pairs.values()):
        for method in ("Deepfakes", "FaceSwap"):
            clip(root / f"manipulated_sequences/{method}/c23/videos/{a}_{b}.mp4", moving(person + 6))
    return root


@pytest.fixture(scope="module")
def prepared(tree, tmp_path_factory) -> Path:
    destination = tmp_path_factory.mktemp("crops") / "c23"
    done = run_script(tree, destination, *OPTIONS, "--workers", 1)
    assert done.returncode == 0, done.stderr
    digest = hashlib.sha256((destination / "manifest.jsonl").read_bytes()).hexdigest()
    assert done.stdout.strip().endswith(f"sha256 {digest}")
    return destination


def test_manifest_lists_every_crop_as_it_is(prepared, tree):
    listed = rows(prepared)
    assert listed == sorted(listed, key=lambda row: row["path"])
    assert Counter(row["method"] for row in listed) == {"real": 12, "Deepfakes": 6, "FaceSwap": 6}
    for row in listed:
        content = (prepared / row["path"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == row["sha256"]
        assert cv2.imread(str(prepared / row["path"])).shape == (96, 96, 3)
        assert row["label"] == (row["method"] != "real") and row["frame"] in (1, 3), "floor((i + 0.5) * 5 / 2)"
        assert len(row["box"]) == 4 and row["score"] > 0 and "dlib-hog" in row["detector"]
    assert (prepared / "skipped.jsonl").read_bytes() == b""


def test_training_data_reads_it(prepared):
    records, _ = list_images(prepared)
    assert Counter((record.split, record.label) for record in records) == {
        (split, label): 4 for split in ("train", "val", "test") for label in (0, 1)
    }


def test_hash_is_the_same_with_two_workers(tree, prepared, tmp_path):
    done = run_script(tree, tmp_path / "two", *OPTIONS, "--workers", 2)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "two/manifest.jsonl").read_bytes() == (prepared / "manifest.jsonl").read_bytes()


def test_finished_videos_are_not_done_again(tree, prepared, tmp_path, monkeypatch):
    shutil.copytree(prepared, tmp_path / "crops")
    before = (tmp_path / "crops/manifest.jsonl").read_bytes()
    victim = next((tmp_path / "crops/real").iterdir())
    shutil.rmtree(victim)
    (tmp_path / "crops/manifest.jsonl").unlink()
    calls = []
    prepare_one = prepare.prepare_one
    monkeypatch.setattr(prepare, "prepare_one", lambda task: calls.append(task.folder) or prepare_one(task))
    run_here(monkeypatch, tree, tmp_path / "crops", *OPTIONS, "--workers", 1)
    assert calls == [victim]
    assert (tmp_path / "crops/manifest.jsonl").read_bytes() == before


def test_killed_run_leaves_no_manifest_and_goes_on(tree, prepared, tmp_path):
    command = [sys.executable, SCRIPT, tree, tmp_path / "crops", *OPTIONS, "--workers", "1"]
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("crops/real/*/record.json")) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "crops/manifest.jsonl").exists()
    done = run_script(tree, tmp_path / "crops", *OPTIONS, "--workers", 1)
    assert done.returncode == 0 and "prepared already" in done.stderr
    assert (tmp_path / "crops/manifest.jsonl").read_bytes() == (prepared / "manifest.jsonl").read_bytes()


def test_changed_video_is_done_again(tree, tmp_path, monkeypatch):
    shutil.copytree(tree, tmp_path / "tree")
    run_here(monkeypatch, tmp_path / "tree", tmp_path / "crops", *OPTIONS, "--workers", 1)
    before = {row["path"]: row["sha256"] for row in rows(tmp_path / "crops")}
    changed = next((tmp_path / "tree/manipulated_sequences/Deepfakes/c23/videos").iterdir())
    clip(changed, moving(20))
    run_here(monkeypatch, tmp_path / "tree", tmp_path / "crops", *OPTIONS, "--workers", 1)
    after = {row["path"]: row["sha256"] for row in rows(tmp_path / "crops")}
    assert {path for path in after if after[path] != before[path]} == {
        f"Deepfakes/{changed.stem}/{frame:05d}.png" for frame in (1, 3)
    }


def test_other_settings_do_not_mix(tree, prepared, monkeypatch):
    before = (prepared / "manifest.jsonl").read_bytes()
    with pytest.raises(UserError, match="another size"):
        run_here(monkeypatch, tree, prepared, "--frames", "2", "--size", "100")
    assert (prepared / "manifest.jsonl").read_bytes() == before


def test_foreign_folder_is_refused(tree, tmp_path, monkeypatch):
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(UserError, match="new or empty"):
        run_here(monkeypatch, tree, tmp_path, *OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_damaged_videos_are_named_and_the_others_kept(tree, tmp_path):
    shutil.copytree(tree, tmp_path / "tree")
    damaged = sorted((tmp_path / "tree/original_sequences/youtube/c23/videos").iterdir())[0]
    damaged.write_bytes(damaged.read_bytes()[:900])
    done = run_script(tmp_path / "tree", tmp_path / "crops", *OPTIONS, "--workers", 1)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith(f"error: {damaged}")
    assert not (tmp_path / "crops/manifest.jsonl").exists()
    assert len(list((tmp_path / "crops").rglob("record.json"))) == 11


def test_missing_faces_are_held_or_dropped_and_told(tmp_path, capsys, monkeypatch):
    """Frames 0-4 show a face, 5-9 do not; another video shows none."""
    blank = [np.full((240, 240, 3), 100, np.uint8)] * 5
    clip(tmp_path / "in/train/real/half.mp4", moving(0) + blank)
    clip(tmp_path / "in/train/real/none.mp4", blank)
    clip(tmp_path / "in/train/fake/full.mp4", moving(1))
    for policy, crops in (("hold", 4), ("drop", 2)):
        out = tmp_path / policy
        run_here(monkeypatch, tmp_path / "in", out, "--frames", 4, "--missing", policy, "--workers", 1)
        half = [row for row in rows(out) if row["video"] == "half"]
        assert len(half) == crops
        held = [row for row in half if row["score"] is None]
        assert all(row["box"] == half[1]["box"] for row in held) and len(held) == crops - 2
        skipped = rows(out, "skipped.jsonl")
        assert Counter((row["video"], row["action"]) for row in skipped) == {
            ("half", "held" if policy == "hold" else "dropped"): 2,
            ("none", "dropped"): 4,
        }
        told = capsys.readouterr().err
        assert "half.mp4: no face in 2 of 4 frames" in told and "none.mp4: no face in 4 of 4 frames, dropped" in told


def test_no_face_anywhere_is_an_error(tmp_path, monkeypatch):
    for name in ("real", "fake"):
        save_rgb(tmp_path / f"in/{name}/a.png", np.full((90, 90, 3), 100, np.uint8))
    with pytest.raises(UserError, match="no face found in any of 2"):
        run_here(monkeypatch, tmp_path / "in", tmp_path / "out", *OPTIONS)
    assert not (tmp_path / "out/manifest.jsonl").exists()


def test_folder_of_photos(tmp_path, monkeypatch):
    for person in range(3):
        save_rgb(tmp_path / f"in/val/real/{person}_1.png", astronaut_as(person))
        save_rgb(tmp_path / f"in/val/fake/Swap/{person}_1.jpg", astronaut_as(person + 3))
    run_here(monkeypatch, tmp_path / "in", tmp_path / "out", *OPTIONS, "--format", "jpg", "--workers", 1)
    listed = rows(tmp_path / "out")
    assert Counter((row["method"], row["split"], row["frame"]) for row in listed) == {
        ("real", "val", None): 3,
        ("Swap", "val", None): 3,
    }
    assert all(row["path"].endswith(".jpg") for row in listed)


def test_photos_in_deeper_folders_keep_apart(tmp_path, monkeypatch):
    """`a.png` beside a folder `a/` must not have the crops of one inside those of the other."""
    for name in ("real/a.png", "real/a/b.png", "fake/Swap/a.png", "fake/Swap/a/b.png"):
        save_rgb(tmp_path / "in/test" / name, astronaut_as(len(name)))
    run_here(monkeypatch, tmp_path / "in", tmp_path / "out", *OPTIONS, "--workers", 1)
    found = [(row["method"], row["video"]) for row in rows(tmp_path / "out")]
    assert found == [("Swap", "a"), ("Swap", "a__b"), ("real", "a"), ("real", "a__b")]
    assert all((tmp_path / "out" / row["path"]).is_file() for row in rows(tmp_path / "out"))


def test_photos_without_split_folders_split_by_group_as_training_does(tmp_path):
    for person in range(30):
        for name in ("real", "fake"):
            save_rgb(tmp_path / f"{name}/{person}_{name}.png", np.zeros((8, 8, 3), np.uint8))
    expected = {record.path: record.split for record in list_images(tmp_path)[0]}
    found = {source.path.relative_to(tmp_path).as_posix(): source.split for source in find_sources(tmp_path, "c23")}
    assert found == expected and len(set(found.values())) > 1


def test_unreadable_photo_is_named(tmp_path, monkeypatch):
    save_rgb(tmp_path / "in/real/a.png", astronaut_as(0))
    save_rgb(tmp_path / "in/fake/b.png", astronaut_as(1))
    (tmp_path / "in/fake/b.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"b\.png: not a readable image"):
        run_here(monkeypatch, tmp_path / "in", tmp_path / "out", *OPTIONS, "--workers", 1)


def test_methods_choose_the_fakes(tree):
    methods = {source.method for source in find_sources(tree, "c23", ["FaceSwap"])}
    assert methods == {"real", "FaceSwap"}
    with pytest.raises(UserError, match=r"no method 'Magic'.*found Deepfakes, FaceSwap"):
        find_sources(tree, "c23", ["Magic"])
    with pytest.raises(UserError, match="c40/videos: no videos"):
        find_sources(tree, "c40")


def test_methods_that_a_folder_lacks_are_named(tmp_path):
    for name in ("real/a.png", "fake/Swap/b.png", "fake/Blend/b.png"):
        save_rgb(tmp_path / name, np.zeros((8, 8, 3), np.uint8))
    assert {source.method for source in find_sources(tmp_path, "c23", ["Swap"])} == {"real", "Swap"}
    for methods in (["Swap", "Magic"], ["Magic"]):
        with pytest.raises(UserError, match=r"no method 'Magic' \(found Blend, Swap\)"):
            find_sources(tmp_path, "c23", methods)


def test_linked_folders_are_read_and_loops_of_links_are_not(tmp_path):
    save_rgb(tmp_path / "elsewhere/b.png", np.zeros((8, 8, 3), np.uint8))
    for name in ("real/a/c.png", "real/a/.hidden/d.png", "fake/Swap/b.png"):
        save_rgb(tmp_path / "in" / name, np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "in/real/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/real/a/up").symlink_to("../../real")
    expected = ["fake/Swap/b.png", "real/a/c.png", "real/linked/b.png"]
    assert sorted(record.path for record in list_images(tmp_path / "in")[0]) == expected
    found = find_sources(tmp_path / "in", "c23")
    assert sorted(source.path.relative_to(tmp_path / "in").as_posix() for source in found) == expected


def test_a_folder_named_real_inside_fake_is_refused(tmp_path):
    for name in ("real/a.png", "fake/real/a.png"):
        save_rgb(tmp_path / name, np.zeros((8, 8, 3), np.uint8))
    for read in (list_images, lambda root: find_sources(root, "c23")):
        with pytest.raises(UserError, match="a folder real/ inside fake/"):
            read(tmp_path)


def test_a_colon_in_a_video_s_name_is_no_protocol(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clip(Path("12:30.mp4"), moving(0, frames=2))
    assert [index for index, _ in sample_frames("12:30.mp4", 5)] == [0, 1]


def test_official_splits_are_ffpps(tmp_path):
    split_of = read_splits(tmp_path)
    assert Counter(split_of.values()) == {"train": 720, "val": 140, "test": 140}
    assert sorted(split_of) == [f"{number:03d}" for number in range(1000)]
    shared = Path(os.environ.get("PANET_SHARED", Path(__file__).resolve().parents[3] / "shared"))
    if not (shared / "data/ffpp_splits.csv").is_file():
        pytest.skip(f"no ffpp_splits.csv in {shared}/data to compare with")
    with (shared / "data/ffpp_splits.csv").open() as file:
        assert all(split_of[row["a"]] == split_of[row["b"]] == row["split"] for row in csv.DictReader(file))


def write_splits(root: Path, train: object, val: object, test: object) -> None:
    (root / "splits").mkdir(parents=True, exist_ok=True)
    for name, pairs in (("train", train), ("val", val), ("test", test)):
        (root / "splits" / f"{name}.json").write_text(json.dumps(pairs))


def test_splits_of_the_tree_come_first(tmp_path):
    write_splits(tmp_path, [["000", "001"]], [["002", "003"]], [["004", "005"]])
    assert read_splits(tmp_path) == {
        "000": "train", "001": "train", "002": "val", "003": "val", "004": "test", "005": "test",
    }  # fmt: skip


def test_bad_splits_are_named(tmp_path):
    write_splits(tmp_path, [["000", "001"]], [["001", "003"]], [["004", "005"]])
    with pytest.raises(UserError, match=r"val\.json: id 001 is in train too"):
        read_splits(tmp_path)
    write_splits(tmp_path, [["000", "001"]], {"a": 1}, [["004", "005"]])
    with pytest.raises(UserError, match=r"val\.json: not a list of"):
        read_splits(tmp_path)
    (tmp_path / "splits/test.json").unlink()
    write_splits(tmp_path, [["000", "001"]], [["002", "003"]], [])
    (tmp_path / "splits/test.json").unlink()
    with pytest.raises(UserError, match=r"test\.json"):
        read_splits(tmp_path)


def test_unfinished_forgery_set_is_refused(tmp_path):
    (tmp_path / "forge.json").write_text("{}")
    with pytest.raises(UserError, match=r"unfinished forgery set.*forge\.py"):
        read_splits(tmp_path)


def test_donor_from_another_split_is_refused(tree, tmp_path):
    shutil.copytree(tree, tmp_path / "tree")
    split_of = read_splits(tree)
    one, other = (next(key for key, split in split_of.items() if split == wanted) for wanted in ("train", "test"))
    clip(tmp_path / f"tree/manipulated_sequences/Deepfakes/c23/videos/{one}_{other}.mp4", moving(0, 1))
    with pytest.raises(UserError, match=f"{one} in train, {other} in test"):
        find_sources(tmp_path / "tree", "c23")


def test_each_split_may_hold_a_file_of_the_same_name(tmp_path):
    for name in ("train/real/0.png", "train/fake/0.png", "test/real/0.png", "test/real/1.png", "test/fake/Swap/0.png"):
        save_rgb(tmp_path / name, np.zeros((8, 8, 3), np.uint8))
    found = {(source.method, source.video, source.split) for source in find_sources(tmp_path, "c23")}
    assert found == {
        ("real", "train__0", "train"),
        ("real", "test__0", "test"),
        ("real", "1", "test"),
        ("fake", "0", "train"),
        ("Swap", "0", "test"),
    }


def test_two_files_of_one_id_are_refused(tmp_path):
    for name in ("real/a.png", "real/a.jpg", "fake/b.png"):
        save_rgb(tmp_path / name, np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(UserError, match="same id real/a"):
        find_sources(tmp_path, "c23")


@pytest.mark.parametrize("what, wanted", [("absent", "no such folder"), ("empty", "no real"), ("one", "no fake")])
def test_bad_sources(tmp_path, what, wanted):
    if what != "absent":
        (tmp_path / "in").mkdir()
    if what == "one":
        save_rgb(tmp_path / "in/real/a.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(UserError, match=wanted):
        find_sources(tmp_path / "in", "c23")


@pytest.mark.parametrize("bad", [["--size", "0"], ["--scale", "-1"], ["--compression", "c99"], ["--missing", "guess"]])
def test_bad_arguments_exit_with_2(tree, tmp_path, monkeypatch, bad):
    with pytest.raises(UserError) as caught:
        run_here(monkeypatch, tree, tmp_path / "out", *bad)
    assert caught.value.exit_code == 2 and not (tmp_path / "out").exists()


def face(x: float, side: float = 100, y: float = 0) -> Face:
    return Face((x, y, x + side, y + side), 1.0)


def test_track_stays_with_its_face():
    """A larger face comes by: "the largest of each frame" would jump, the track does not."""
    mine, passer = [face(10), face(15), face(30)], face(300, side=180)
    assert follow([[mine[0]], [passer, mine[1]], [mine[2], passer]]) == mine


def test_track_starts_with_the_largest_and_bridges_gaps():
    big, small = face(0, 120), face(400, 90)
    assert follow([[], [small, big], [], [face(60, 120)], [small]]) == [None, big, None, face(60, 120), None]


def test_track_without_overlap_goes_to_the_nearest_within_a_side():
    assert follow([[face(0, y=0)], [face(80, y=60, side=20)]])[1] == face(80, y=60, side=20)
    assert follow([[face(0)], [face(101)]]) == [face(0), None]


def test_boxes_by_policy():
    track = [None, face(1), None, face(3), None]
    one, three = face(1).box, face(3).box
    assert boxes(track, "hold") == [one, one, one, three, three]
    assert boxes(track, "drop") == [None, one, None, three, None]
    assert boxes([None, None], "hold") == [None, None]
    with pytest.raises(ValueError, match="got 'guess'"):
        boxes(track, "guess")
