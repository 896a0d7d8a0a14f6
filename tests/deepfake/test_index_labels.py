"""Index files: labels are known words or what the user says, several files may repeat a video, nothing leads out."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("dlib", reason="finding faces needs dlib-bin")
pytest.importorskip("av", reason="decoding videos needs PyAV")

from deepfake.common.cli import UserError
from deepfake.sources.finding import find_sources
from deepfake.sources.labels import label_of, labels_option
from deepfake.sources.source import Selection, Source
from tests.deepfake.portraits_for_tests import save_rgb
from tests.deepfake.prepare_for_tests import crops, run_here

REAL = (
    "real Real original pristine youtube FF-real CelebDFv1_real CelebDFv2_real DFD_real DFDCP_Real DFDC_Real DF_real "
    "UADFV_Real Celeb-real YouTube-real original_sequences mine_real MINE-real"
)
FAKE = (
    "fake FAKE FF-DF FF-F2F FF-FS FF-NT FF-FH FF-SH DFD_fake CelebDFv2_fake DFDCP_FakeA DFDCP_FakeB DFDC_Fake DF_fake "
    "UADFV_Fake Celeb-synthesis Deepfakes Face2Face FaceSwap NeuralTextures FaceShifter deepfakes mine_fake"
)
UNKNOWN: tuple[Any, ...] = (
    "unreal", "not_real", "un-real", "photo-real", "surreal", "really", "real-fake", "real?fake", "genuinely", "0", "1",
    "", " ", "true", "negative", 0, 1, 0.0, 1.5, True, False, None, [], ["real"], {"real": 1},
)  # fmt: skip


@pytest.mark.parametrize(("words", "label"), [(REAL, 0), (FAKE, 1)])
def test_the_words_of_public_sets_are_known(words: str, label: int) -> None:
    assert {word: label_of(word, "Mine", {}) for word in words.split()} == dict.fromkeys(words.split(), label)


@pytest.mark.parametrize(("label", "data_set"), [("fake-real", "fake"), ("real fake", "real")])
def test_the_name_of_a_set_that_is_itself_a_label_is_not_taken_away(label: str, data_set: str) -> None:
    assert label_of(label, data_set, {}) is None


@pytest.mark.parametrize("said", UNKNOWN, ids=repr)
def test_a_label_that_is_not_known_is_refused_and_named(tmp_path: Path, said: Any) -> None:
    with pytest.raises(UserError) as caught:
        find_sources(tmp_path, indexed(tmp_path, {"Mine": {"a": {"train": {"007": listing(said, "007")}}}}))
    assert f"a.json: Mine/a/train/007: label {json.dumps(said)} is not known" in str(caught.value)
    assert "--labels" in str(caught.value)


def listing(label: Any, video: str, frames: tuple[int, ...] = (0,)) -> dict[str, Any]:
    return {"label": label, "frames": [f"any/frames/{video}/{frame:03d}.png" for frame in frames]}


def indexed(folder: Path, *trees: Any, labels: str | None = None) -> Selection:
    """A selection of index files with these contents."""
    files = [folder / f"{name}.json" for name, _ in zip("abc", trees)]
    for file, tree in zip(files, trees, strict=False):
        file.write_text(json.dumps(tree))
    return Selection("c23", indices=files, labels=labels_option(labels) if labels else {})


def found(folder: Path, *trees: Any, labels: str | None = None) -> list[tuple[str, str, str]]:
    sources: list[Source] = find_sources(folder, indexed(folder, *trees, labels=labels))
    return [(source.method, source.video, source.split) for source in sources]


@pytest.mark.parametrize(("labels", "first"), [("real=0,fake=1", "real"), ("fake=0, real=1", "fake")])
def test_the_user_says_what_numbers_mean(tmp_path: Path, labels: str, first: str) -> None:
    tree = {"train": {"0": listing(0, "a"), "1": listing(1, "b")}}
    methods = {video: method for method, video, _ in found(tmp_path, tree, labels=labels)}
    assert methods == {"a": first, "b": {"real": "fake", "fake": "real"}[first]}


def test_the_user_says_what_other_spellings_mean(tmp_path: Path) -> None:
    tree = {"train": {"a": listing(False, "a"), "b": listing("Roop", "b"), "c": listing("bona fide", "c")}}
    sources = found(tmp_path, tree, labels="real=false,real=bona fide,fake=roop")
    assert sources == [("real", "a", "train"), ("real", "c", "train"), ("Roop", "b", "train")]


@pytest.mark.parametrize("text", ["", "real", "real=", "0=real", "real=0,fake=0", "real=0,swap=1"])
def test_a_wrong_option_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match=r"--labels: .*(is not real=LABEL|both real and fake)") as caught:
        run_here(tmp_path, tmp_path / "out", "--index", tmp_path / "a.json", "--labels", text)
    assert caught.value.exit_code == 2


def test_labels_need_an_index(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--labels needs --index"):
        run_here(tmp_path, tmp_path / "out", "--labels", "real=0")


def test_a_label_that_contradicts_its_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="label \"FF-real\" means real, but it is listed under 'FF-DF'"):
        found(tmp_path, {"FF-DF": {"FF-DF": {"train": {"000": listing("FF-real", "000")}}}})


def test_recces_labels_are_exactly_0_and_1(tmp_path: Path) -> None:
    for label in (0.9, True, "1", 2, torch.tensor(1)):
        torch.save([("a/000.png", 0), ("b/000.png", label)], tmp_path / "train_c23.pickle")
        with pytest.raises(UserError, match=r"train_c23\.pickle, entry 2: label"):
            find_sources(tmp_path, Selection("c23", indices=(tmp_path / "train_c23.pickle",)))


# Several files


def of_method(name: str, frames: tuple[int, ...] = (0, 3)) -> dict[str, Any]:
    """An index of DeepfakeBench's of one method, which lists FF++'s reals too."""
    folders = {"FaceSwap": "FF-FS", "Deepfakes": "FF-DF", "real": "FF-real"}
    tree: dict[str, Any] = {}
    for method, video in (("real", "000"), ("real", "001"), (name, "000_001"), (name, "001_000")):
        top = f"manipulated_sequences/{method}" if method != "real" else "original_sequences/youtube"
        paths = [f"FaceForensics++/{top}/c23/frames/{video}/{frame:03d}.png" for frame in frames]
        row = {"label": folders[method], "frames": paths}
        tree.setdefault(folders[method], {"train": {"c23": {}}})["train"]["c23"][video] = row
    return {folders[name]: tree}


def test_indices_of_several_methods_share_their_reals(tmp_path: Path) -> None:
    trees = of_method("Deepfakes"), of_method("FaceSwap")
    assert found(tmp_path, *trees) == [
        ("real", "000", "train"), ("real", "001", "train"),
        ("Deepfakes", "000_001", "train"), ("Deepfakes", "001_000", "train"),
        ("FaceSwap", "000_001", "train"), ("FaceSwap", "001_000", "train"),
    ]  # fmt: skip


def test_indices_that_share_their_reals_are_prepared(tmp_path: Path) -> None:
    indices = indexed(tmp_path, of_method("Deepfakes"), of_method("FaceSwap")).indices
    for source in find_sources(tmp_path / "in", Selection("c23", indices=indices)) if make(tmp_path / "in") else ():
        for frame in (0, 3):
            save_rgb(source.path / f"{frame:03d}.png", np.zeros((20, 20, 3), np.uint8))
    run_here(tmp_path / "in", tmp_path / "out", "--index", *indices, "--crop", "none", "--size", 16, "--workers", 1)
    assert len(crops(tmp_path / "out")) == 12


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_contradictions_between_indices_are_refused(tmp_path: Path) -> None:
    reals = {"D": {"real": {"train": {"a": listing("real", "a")}}}}
    fakes = {"D": {"fake": {"train": {"a": listing("fake", "a")}}}}
    with pytest.raises(UserError, match=r"frames/a: listed twice with different labels \(real in .*a\.json, fake in"):
        found(tmp_path, reals, fakes)
    with pytest.raises(UserError, match=r"000: .*a\.json and .*b\.json list different frames of it"):
        found(tmp_path, of_method("Deepfakes"), of_method("FaceSwap", frames=(0, 4)))
    elsewhere = {"D": {"train": {"a": listing("real", "other/a")}}}
    for name in ("frames/a", "frames/other/a"):
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(UserError, match="have the same id real/a"):
        found(tmp_path, reals, elsewhere)


def test_one_video_in_two_splits_of_two_files_is_tested_only(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    trees = [{"D": {split: {"a": listing("real", "a", frames)}}} for split, frames in (("train", (1,)), ("test", (2,)))]
    assert found(tmp_path, *trees) == [("real", "a", "test")]
    assert "1 entries are left out" in capsys.readouterr().err


# Files and what they may name


@pytest.mark.parametrize("name", ["FF.JSON", "FF.Json", "FF", "FF.txt", "train.pickle"])
def test_an_index_is_known_by_its_content(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(json.dumps({"train": {"a": listing("real", "a")}}))
    assert len(find_sources(tmp_path, Selection("c23", indices=(tmp_path / name,)))) == 1


@pytest.mark.parametrize("name", ["train_c23.pickle", "train.json", "Train"])
def test_recces_index_is_known_by_its_content(tmp_path: Path, name: str) -> None:
    torch.save([("a/000.png", 0)], tmp_path / name, _use_new_zipfile_serialization=name != "Train")
    assert len(find_sources(tmp_path, Selection("c23", indices=(tmp_path / name,)))) == 1


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"train": {"a": {"frames": ["a/0.png"]}}}, "train/a: wanted an object with label and a list of frames"),
        ({"train": {"a": {"label": "real", "frames": "a/0.png"}}}, "train/a: wanted an object with label and a list"),
        ({"train": {"a": {"label": "real", "frames": [0]}}}, "0' .wanted paths"),
        ({"train": {"a": None}}, "train/a: a NoneType .wanted an object"),
        ({"train": [listing("real", "a")]}, "train: a list .wanted an object"),
        ({"train": {"a": {"label": "real", "frames": ["a/" + "1" * 5000 + ".png"]}}}, "wanted paths"),
        ({"train": {"a": {"label": "real", "frames": ["../a/0.png"]}}}, "wanted paths"),
        ({"train": {"a": {"label": "real", "frames": ["C:\\a\\..\\b\\0.png"]}}}, "wanted paths"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_wrong_types_and_paths_are_named(tmp_path: Path, tree: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        found(tmp_path, tree)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("path", ["/etc/ssl/0.png", "x" * 300 + "/0.png", "a\0b/0.png", "a/\ud800/0.png"])
def test_a_path_that_cannot_be_below_the_folder_is_missing(tmp_path: Path, path: str) -> None:
    (tmp_path / "in").mkdir()
    selection = indexed(tmp_path, {"train": {"a": {"label": "real", "frames": [path]}}})
    try:
        (source,) = find_sources(tmp_path / "in", selection)
    except UserError as error:
        assert any(words in str(error) for words in ("wanted a folder's name", "leads out", "half of a letter"))
    else:
        assert source.path.is_relative_to(tmp_path / "in")


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
@pytest.mark.parametrize("link", ["frames", "frames/a", "frames/a/000.png"])
def test_a_link_that_leads_out_of_the_folder_is_refused(tmp_path: Path, link: str) -> None:
    root = tmp_path / "in"
    save_rgb(tmp_path / "private/a/000.png", np.zeros((8, 8, 3), np.uint8))
    (root / link).parent.mkdir(parents=True)
    (root / link).symlink_to(tmp_path / "private" / link.removeprefix("frames").lstrip("/"))
    selection = indexed(tmp_path, {"train": {"a": listing("real", "a")}})
    with pytest.raises(UserError, match=rf"in/frames/a.*: a link that leads out of {root}"):
        find_sources(root, selection)


def test_a_link_that_stays_in_the_folder_is_followed(tmp_path: Path) -> None:
    save_rgb(tmp_path / "in/kept/000.png", np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "in/frames").mkdir()
    (tmp_path / "in/frames/a").symlink_to("../kept")
    (tmp_path / "linked").symlink_to("in")
    selection = indexed(tmp_path, {"train": {"a": listing("real", "a")}})
    (source,) = find_sources(tmp_path / "linked", selection)
    assert source.path == tmp_path / "linked/frames/a"
