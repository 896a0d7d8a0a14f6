"""What is taken of a source: frame counts by profile, index files of other projects, boxes of other detectors."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("dlib", reason="finding faces needs dlib-bin")
pytest.importorskip("av", reason="decoding videos needs PyAV")

from deepfake.common.cli import UserError
from deepfake.preparing.frame_counts import frame_counts
from deepfake.sources import ffpp
from deepfake.sources.finding import find_sources
from deepfake.sources.source import Selection
from tests.deepfake.portraits_for_tests import save_rgb
from tests.deepfake.prepare_for_tests import OPTIONS, clip, crops, moving, problems, run_here


def test_recce_takes_36000_of_each_class_of_ffpp(tmp_path):
    (tmp_path / "original_sequences").mkdir()
    sources = find_sources(tmp_path, Selection("c23"))
    images: Counter[tuple[str, int]] = Counter()
    for source, count in zip(sources, frame_counts(sources, "recce"), strict=True):
        images[source.split, source.label] += count
        assert count == 32 or source.split == "train"
    assert images["train", 0] == images["train", 1] == 36_000
    assert images["test", 0] == 140 * 32 and images["test", 1] == 560 * 32
    assert set(frame_counts(sources, "bench32")) == {32} and set(frame_counts(sources, 7)) == {7}
    assert len(ffpp.METHODS) == 4


# Index files of other projects


def deepfakebench(root: Path) -> Path:
    """An index file as DeepfakeBench has it; below `root`, train has videos and test has folders of frames."""
    fake, real = "manipulated_sequences/Deepfakes/c23", "original_sequences/youtube/c23"
    tree = {"FF-DF": {}, "FF-real": {}}
    for label, top, train, test in (("FF-DF", fake, "000_001", "004_005"), ("FF-real", real, "000", "004")):
        clip(root / top / f"videos/{train}.mp4", moving(int(train[:3]), 6))
        for frame in (0, 12):
            save_rgb(root / top / f"frames/{test}/{frame:03d}.png", moving(3)[0])
        for split, name, frames in (("train", train, (1, 4)), ("test", test, (0, 12))):
            paths = [f"FaceForensics++\\{top}\\frames\\{name}\\{frame:03d}.png" for frame in frames]
            other = [path.replace("c23", "c40") for path in paths]
            tree[label][split] = {"c23": {name: {"label": label, "frames": paths}}}
            tree[label][split]["c40"] = {name: {"label": label, "frames": other}}
    (root / "FF.json").write_text(json.dumps({"FaceForensics++": tree}))
    return root / "FF.json"


def test_index_file_of_deepfakebench(tmp_path):
    index = deepfakebench(tmp_path / "in")
    run_here(tmp_path / "in", tmp_path / "out", "--index", index, "--size", "96", "--workers", 1)
    assert [(row["split"], row["method"], row["video"], row["frame"]) for row in crops(tmp_path / "out")] == [
        ("train", "Deepfakes", "000_001", 1), ("train", "Deepfakes", "000_001", 4),
        ("test", "Deepfakes", "004_005", 0), ("test", "Deepfakes", "004_005", 12),
        ("train", "real", "000", 1), ("train", "real", "000", 4),
        ("test", "real", "004", 0), ("test", "real", "004", 12),
    ]  # fmt: skip


def test_missing_videos_of_an_index_are_named(tmp_path, capsys):
    index = deepfakebench(tmp_path / "in")
    (tmp_path / "in/original_sequences/youtube/c23/videos/000.mp4").unlink()
    with pytest.raises(UserError, match="1 videos are missing"):
        run_here(tmp_path / "in", tmp_path / "out", "--index", index, *OPTIONS[2:])
    assert "000" in capsys.readouterr().err


@pytest.mark.parametrize(
    "splits, expected",
    [
        (None, {"a0": "test", "b0": "val", "c0": "train", "a_x": "test", "c_x": "train"}),
        (("train", "val"), {"a0": "val", "b0": "val", "c0": "train", "a_x": "val", "c_x": "train"}),
        (("train",), dict.fromkeys(("a0", "b0", "c0", "a_x", "c_x"), "train")),
        (("test",), {"a0": "test", "a_x": "test"}),
    ],
)
def test_a_video_that_an_index_lists_in_several_splits_is_in_one(tmp_path, capsys, splits, expected):
    """As in DeepfakeBench's Celeb-DF-v2.json: train lists all videos, val and test list the test videos again."""

    def under(*videos: str) -> dict:
        labels = {video: f"CelebDFv2_{'fake' if '_' in video else 'real'}" for video in videos}
        return {video: {"label": label, "frames": [f"Celeb/{video}/000.png"]} for video, label in labels.items()}

    tree = {"train": under("a0", "b0", "c0", "a_x", "c_x"), "val": under("a0", "b0", "a_x"), "test": under("a0", "a_x")}
    (tmp_path / "a.json").write_text(json.dumps({"Celeb-DF-v2": tree}))
    found = find_sources(tmp_path, Selection("c23", splits=splits, indices=(tmp_path / "a.json",)))
    assert {source.video: source.split for source in found} == expected and len(found) == len(expected)
    several = splits is None or len(splits) > 1
    assert ("test goes before val" in capsys.readouterr().err) == several


@pytest.mark.parametrize("label", ["../kept", "..", ".", "a/b", "a\\b", "a\0b", "x" * 256])
def test_names_that_lead_out_of_the_folder_are_refused(tmp_path, label):
    save_rgb(tmp_path / "kept/b/mine.png", np.zeros((8, 8, 3), np.uint8))
    videos = {name: {"label": said, "frames": [f"{name}/1.png"]} for name, said in (("b", label), ("c", "real"))}
    for name in videos:
        save_rgb(tmp_path / "in" / name / "1.png", np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "a.json").write_text(json.dumps({"train": videos}))
    options = "--index", tmp_path / "a.json", "--labels", f"fake={label}", "--crop", "none", "--workers", 1
    with pytest.raises(UserError, match=r"in/b: method .* \(wanted (a folder's name|at most 255 bytes)") as caught:
        run_here(tmp_path / "in", tmp_path / "out", *options)
    assert caught.value.exit_code == 2 and not (tmp_path / "out").exists()
    assert (tmp_path / "kept/b/mine.png").exists()


def save_recce(file: Path, rows: list) -> Path:
    torch.save(rows, file)
    return file


def test_index_file_of_recce_with_images_that_are_crops(tmp_path):
    rows: dict[str, list] = {"train": [], "test": []}
    for split, people in (("train", ("000", "001")), ("test", ("004", "005"))):
        for label, name in ((0, people[0]), (1, "_".join(people))):
            top = f"manipulated_sequences/Face2Face/c40/images/{name}" if label else f"original_sequences/{name}"
            for frame in (3, 20):
                save_rgb(tmp_path / "in" / top / f"{frame:04d}.png", np.full((40, 60, 3), frame, np.uint8))
                rows[split].append((f"{top}/{frame:04d}.png", label))
    indices = [save_recce(tmp_path / f"{split}_c40.pickle", rows[split]) for split in rows]
    run_here(tmp_path / "in", tmp_path / "out", "--index", *indices, "--crop", "none", "--size", "32", "--workers", 1)
    found = crops(tmp_path / "out")
    assert Counter((row["split"], row["method"], row["frame"]) for row in found) == {
        (split, method, frame): 1 for split in rows for method in ("Face2Face", "real") for frame in (3, 20)
    }
    assert {tuple(row["box"]) for row in found} == {(10, 0, 50, 40)}, "the central square"


def test_bad_index_files_are_named(tmp_path):
    (tmp_path / "in").mkdir()

    def message(name: str, content: object) -> str:
        if isinstance(content, str):
            (tmp_path / name).write_text(content)
        else:
            save_recce(tmp_path / name, content)  # type: ignore[arg-type]
        with pytest.raises(UserError) as caught:
            run_here(tmp_path / "in", tmp_path / "out", "--index", tmp_path / name)
        assert caught.value.exit_code == 2 and "\n" not in str(caught.value) and not (tmp_path / "out").exists()
        return str(caught.value)

    video = {"label": "FF-real", "frames": ["a/b/1.png"]}
    assert "not JSON" in message("a.json", "{")
    assert "not JSON" in message("a.json", "[" * 100_000)
    assert "holds a list, wanted a JSON object" in message("a.json", "[1]")
    assert "names no frames" in message("a.json", "{}")
    assert "is in no split" in message("a.json", json.dumps({"FF": {"c23": {"b": video}}}))
    assert "'a/b/x.png'" in message("a.json", json.dumps({"train": {"b": video | {"frames": ["a/b/x.png"]}}}))
    twice = {"train": {"b": video, "c": {"b": video | {"frames": ["b/b/1.png"]}}}}
    for name in ("a/b", "b/b"):
        (tmp_path / "in" / name).mkdir(parents=True)
    assert "b/b (in train) have the same id real/b" in message("a.json", json.dumps(twice))
    other = {"train": {"b": video}, "test": {"b": video | {"frames": ["other/b/1.png"]}}}
    (tmp_path / "in/other/b").mkdir(parents=True)
    assert re.search(
        r"a/b \(in train\) and .*other/b \(in test\) have the same id", message("a.json", json.dumps(other))
    )
    crossing = {"train": {"b": video}, "test": {"b_c": {"label": "FF-DF", "frames": ["a/b_c/1.png"]}}}
    assert "is in test, but its b in train" in message("a.json", json.dumps(crossing))
    assert "does not begin with a split" in message("c40.pickle", [("a/b/1.png", 0)])
    assert "entry 1: label 2 (wanted 0 for real or 1 for fake)" in message("train_c40.pickle", [("a/b/1.png", 2)])
    assert "is not JSON" in message("train_c40.pickle", "no pickle")
    assert "holds code" in message("train_c40.pickle", [Path("a"), 1])
    assert "wanted a list of (path, 0 or 1)" in message("train_c40.pickle", [1, 2])


# Boxes of other detectors


def photos(root: Path) -> Path:
    for name in ("real/a.png", "fake/b.png"):
        save_rgb(root / "test" / name, np.arange(90 * 120 * 3, dtype=np.uint32).astype(np.uint8).reshape(90, 120, 3))
    clip(root / "test/real/c.mp4", moving(0))
    return root


def test_boxes_replace_the_detector(tmp_path, capsys):
    lines = ["path,frame,x0,y0,x1,y1,score", "test/real/a.png,,10,20,30,40,0.5", "test/real/c.mp4,1,0,0,9,9,"]
    (tmp_path / "boxes.csv").write_text("\n".join(lines) + "\n")
    run_here(photos(tmp_path / "in"), tmp_path / "out", *OPTIONS, "--boxes", tmp_path / "boxes.csv", "--workers", 1)
    found = {(row["video"], row["frame"]): row for row in crops(tmp_path / "out")}
    assert found["a", None]["box"] == [10, 20, 30, 40] and found["a", None]["score"] == 0.5
    assert found["c", 1]["box"] == found["c", 3]["box"] == [0, 0, 9, 9] and found["c", 3]["score"] is None
    assert {row["detector"] for row in found.values()} == {"boxes"}
    assert problems(tmp_path / "out") == [("fake", "b", "no face in any of 1 frames")]
    assert len(json.loads((tmp_path / "out/prepare.json").read_text())["boxes"]) == 64
    assert "boxes.csv: no boxes for 1 of 3 videos or photos, the first: " in capsys.readouterr().err


@pytest.mark.parametrize("path", ["./test/real/a.png", "test//real/a.png", "{root}/test/real/a.png",
                                  "../in/test/real/a.png", "test/real/x.png", ""])  # fmt: skip
def test_boxes_of_unknown_paths_are_named(tmp_path, path):
    root = photos(tmp_path / ("a_folder_of_a_long_name" * 5) / "in")
    path = path.format(root=root)
    (tmp_path / "boxes.csv").write_text(f"path,frame,x0,y0,x1,y1\ntest/real/c.mp4,1,0,0,9,9\n{path},,1,2,3,4\n")
    message = f"boxes.csv: path {path!r} leads to no file in {root}"
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        run_here(root, tmp_path / "out", "--boxes", tmp_path / "boxes.csv")
    assert caught.value.exit_code == 2 and not (tmp_path / "out").exists()


def test_boxes_of_unwanted_files_are_ignored(tmp_path):
    save_rgb(photos(tmp_path / "in") / "train/real/a.png", np.zeros((90, 120, 3), np.uint8))
    names = ("train/real/a.png", "test/real/a.png", "test/fake/b.png")
    lines = ["path,frame,x0,y0,x1,y1", *(f"{name},,1,2,30,40" for name in names)]
    (tmp_path / "boxes.csv").write_text("\n".join(lines))
    options = (*OPTIONS, "--boxes", tmp_path / "boxes.csv", "--splits", "test", "--workers", 1)
    run_here(tmp_path / "in", tmp_path / "out", *options)
    assert {row["video"] for row in crops(tmp_path / "out")} == {"test__a", "b"}


@pytest.mark.parametrize(
    "content, expected",
    [
        ("path,frame,x0,y0,x1\n", "its header has no y1"),
        ("path,frame,x0,y0,x1,y1\na.png,,1,2,3\n", "line 2: wanted whole frame numbers"),
        ("path,frame,x0,y0,x1,y1\na.png,1.5,1,2,3,4\n", "line 2: wanted whole frame numbers"),
        ("path,frame,x0,y0,x1,y1\na.png,,1,2,1,4\n", "line 2: box 1 2 1 4"),
        ("path,frame,x0,y0,x1,y1\na.png,-1,1,2,3,4\n", "line 2: box"),
        ("path,frame,x0,y0,x1,y1\na.png,,1,2,nan,4\n", "line 2: box"),
    ],
)
def test_bad_boxes_are_named(tmp_path, content, expected):
    (tmp_path / "boxes.csv").write_text(content)
    with pytest.raises(UserError, match=f"boxes.csv.*{expected}") as caught:
        run_here(photos(tmp_path / "in"), tmp_path / "out", "--boxes", tmp_path / "boxes.csv")
    assert caught.value.exit_code == 2 and not (tmp_path / "out").exists()
