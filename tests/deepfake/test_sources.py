"""The sources of a folder, with label, method and split: layouts of FF++, Celeb-DF and DFDC, and any other."""

from __future__ import annotations

import csv
import json
import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("dlib", reason="finding faces needs dlib-bin")
pytest.importorskip("av", reason="decoding videos needs PyAV")

from deepfake.common.cli import UserError
from deepfake.dataset.manifest import list_images, split_of_group
from deepfake.sources import ffpp
from deepfake.sources.finding import find_sources
from deepfake.sources.source import Selection, Source
from tests.deepfake.portraits_for_tests import save_rgb
from tests.deepfake.prepare_for_tests import METHODS, PAIRS, run_here, write_splits


def touch(root: Path, *names: str) -> Path:
    """Make empty files: only names matter to a layout."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def by_split(sources: list[Source]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for source in sources:
        found.setdefault(source.split, set()).add(f"{source.method}/{source.video}")
    return found


# FaceForensics++


def test_official_splits_are_those_of_ffpp():
    pairs = ffpp.official_pairs()
    split_of = ffpp.split_of_ids(pairs)
    assert {split: len(listed) for split, listed in pairs.items()} == {"train": 360, "val": 70, "test": 70}
    assert sorted(split_of) == [f"{number:03d}" for number in range(1000)]
    shared = Path(os.environ.get("PANET_SHARED", Path(__file__).resolve().parents[3] / "shared"))
    if not (shared / "data/ffpp_splits.csv").is_file():
        pytest.skip(f"no ffpp_splits.csv in {shared}/data to compare with")
    with (shared / "data/ffpp_splits.csv").open() as file:
        assert all(split_of[row["a"]] == split_of[row["b"]] == row["split"] for row in csv.DictReader(file))


def test_the_official_splits_list_all_of_ffpp_present_or_missing(tmp_path):
    touch(tmp_path, "original_sequences/youtube/c40/videos/000.mp4")
    found = find_sources(tmp_path, Selection("c40"))
    counts = Counter((source.method, source.split) for source in found)
    for split, count in (("train", 720), ("val", 140), ("test", 140)):
        assert all(counts[method, split] == count for method in ("real", *ffpp.METHODS))
    assert len(counts) == 15 and sum(source.path.exists() for source in found) == 1
    split_of = ffpp.split_of_ids(ffpp.official_pairs())
    assert all({split_of[key] for key in source.video.split("_")} == {source.split} for source in found)
    chosen = find_sources(tmp_path, Selection("c40", methods=("FaceSwap",), splits=("test",)))
    assert Counter(source.method for source in chosen) == {"real": 140, "FaceSwap": 140}


def test_splits_in_the_tree_replace_the_official_ones(tmp_path):
    write_splits(tmp_path, **PAIRS)
    assert ffpp.split_of_ids(ffpp.read_own_pairs(tmp_path)) == {
        "000": "train", "001": "train", "002": "val", "003": "val", "004": "test", "005": "test",
    }  # fmt: skip
    for method in METHODS:
        (tmp_path / f"manipulated_sequences/{method}/c23/videos").mkdir(parents=True)
    found = by_split(find_sources(tmp_path, Selection("c23")))
    assert found["val"] == {"real/002", "real/003"} | {f"{m}/{v}" for m in METHODS for v in ("002_003", "003_002")}


def official_tree(root: Path) -> Path:
    """A tree with the official splits, FF++'s four methods and two more."""
    pairs = ffpp.official_pairs()
    write_splits(root, **{split: [list(pair[::-1]) for pair in reversed(listed)] for split, listed in pairs.items()})
    for method in (*ffpp.METHODS, "DeepFakeDetection", "FaceShifter"):
        (root / f"manipulated_sequences/{method}/c23/videos").mkdir(parents=True)
    return root


def test_official_splits_in_the_tree_are_the_official_ones(tmp_path, capsys):
    found = find_sources(official_tree(tmp_path), Selection("c23"))
    assert {source.method for source in found} == {"real", *ffpp.METHODS}
    assert len(found) == 5000 and sum(source.split == "test" for source in found) == 700
    said = capsys.readouterr().err
    assert (
        "left out DeepFakeDetection, FaceShifter, which are not of FF++'s four methods (--methods takes them)" in said
    )


def test_other_methods_are_taken_where_they_are_named(tmp_path, capsys):
    found = find_sources(official_tree(tmp_path), Selection("c23", methods=("FaceSwap", "FaceShifter")))
    assert {source.method for source in found} == {"real", "FaceSwap", "FaceShifter"}
    assert "left out" not in capsys.readouterr().err


def test_bad_splits_are_named(tmp_path):
    write_splits(tmp_path, [["000", "001"]], [["001", "003"]], [["004", "005"]])
    with pytest.raises(UserError, match=r"val\.json: id 001 is in train too"):
        ffpp.read_own_pairs(tmp_path)
    write_splits(tmp_path, [["000", "001"]], {"a": 1}, [["004", "005"]])
    with pytest.raises(UserError, match=r"val\.json: not a list of"):
        ffpp.read_own_pairs(tmp_path)
    write_splits(tmp_path, [["000", "001"]], [["002", "003"]], [])
    (tmp_path / "splits/test.json").unlink()
    with pytest.raises(UserError, match=r"test\.json"):
        ffpp.read_own_pairs(tmp_path)


def test_unfinished_forgery_set_is_refused(tmp_path):
    (tmp_path / "forge.json").write_text("{}")
    with pytest.raises(UserError, match=r"unfinished forgery set.*forge\.py"):
        ffpp.read_own_pairs(tmp_path)


@pytest.mark.parametrize("name, expected", [("000_004", "000 in train, 004 in test"), ("000_999", "999 in none")])
def test_donor_from_another_split_is_refused(tmp_path, name, expected):
    write_splits(tmp_path, **PAIRS)
    touch(tmp_path, f"manipulated_sequences/Deepfakes/c23/videos/{name}.mp4")
    with pytest.raises(UserError, match=expected):
        find_sources(tmp_path, Selection("c23"))


def test_methods_choose_the_fakes(tmp_path):
    write_splits(tmp_path, **PAIRS)
    touch(tmp_path, *(f"manipulated_sequences/{method}/c23/videos/000_001.mp4" for method in METHODS))
    found = find_sources(tmp_path, Selection("c23", methods=("FaceSwap",)))
    assert {source.method for source in found} == {"real", "FaceSwap"}
    with pytest.raises(UserError, match=r"no method 'Magic'.*found Deepfakes, FaceSwap"):
        find_sources(tmp_path, Selection("c23", methods=("Magic",)))


# Celeb-DF v2

CELEB = (
    "Celeb-real/id0_0000.mp4", "Celeb-real/id1_0000.mp4", "Celeb-real/id7_0000.mp4", "Celeb-synthesis/id0_id1_0000.mp4",
    "Celeb-synthesis/id7_id1_0000.mp4", "YouTube-real/00000.mp4",
)  # fmt: skip


def celeb_df(root: Path, *listed: str) -> Path:
    (touch(root, *CELEB) / "List_of_testing_videos.txt").write_text("\n".join(listed))
    return root


def test_the_test_list_of_celeb_df_is_the_test_split(tmp_path):
    listed = ("1 Celeb-real/id1_0000.mp4", "0 Celeb-synthesis/id0_id1_0000.mp4", "1 YouTube-real/00099.mp4")
    found = find_sources(celeb_df(tmp_path, *listed), Selection("c23"))
    assert by_split(found)["test"] == {"real/id1_0000", "Celeb-synthesis/id0_id1_0000", "real/00099"}
    assert [source.path.name for source in found if not source.path.exists()] == ["00099.mp4"]
    assert all(source.label == (source.method != "real") for source in found) and len(found) == 7
    split = {source.video: source.split for source in found}
    assert split["id7_0000"] == split["id7_id1_0000"] != "test", "a target's videos stay together"


@pytest.mark.parametrize("line", ["0 Celeb-real/id1_0000.mp4", "1 Elsewhere/a.mp4", "Celeb-real/id1_0000.mp4", ""])
def test_a_bad_test_list_is_named(tmp_path, line):
    with pytest.raises(UserError, match=r"List_of_testing_videos\.txt(, line 1|: names no)"):
        find_sources(celeb_df(tmp_path, line), Selection("c23"))
    (tmp_path / "List_of_testing_videos.txt").unlink()
    with pytest.raises(UserError, match="says what the test split is"):
        find_sources(tmp_path, Selection("c23"))


# DFDC


def dfdc(root: Path, **rows: dict) -> Path:
    (root / "part_0").mkdir(parents=True, exist_ok=True)
    (root / "part_0/metadata.json").write_text(json.dumps({f"{name}.mp4": row for name, row in rows.items()}))
    return root


def test_splits_in_the_metadata_of_dfdc_count(tmp_path):
    real, fake = {"label": "REAL", "original": None}, {"label": "FAKE", "original": "a.mp4"}
    dfdc(tmp_path, a=real | {"split": "train"}, b=fake | {"split": "train"}, c=real | {"split": "validation"})
    found = find_sources(tmp_path, Selection("c23"))
    assert by_split(found) == {"train": {"real/a", "fake/b"}, "val": {"real/c"}}
    assert found[0].path == tmp_path / "part_0/a.mp4"
    dfdc(tmp_path, a=real | {"split": "train"}, b=fake | {"split": "test"})
    with pytest.raises(UserError, match=r"b\.mp4 is in test, but others of a are in train"):
        find_sources(tmp_path, Selection("c23"))


def test_dfdc_with_one_split_is_split_by_original(tmp_path):
    reals = {f"r{number}": {"label": "REAL", "split": "train"} for number in range(30)}
    fakes = {f"f{number}": {"label": "FAKE", "split": "train", "original": f"r{number}.mp4"} for number in range(30)}
    split = {source.video: source.split for source in find_sources(dfdc(tmp_path, **reals, **fakes), Selection("c23"))}
    assert set(split.values()) == {"train", "val", "test"}
    assert all(split[f"f{number}"] == split[f"r{number}"] for number in range(30))


def test_of_a_long_name_in_a_strangers_metadata_the_middle_is_left_out(tmp_path):
    (tmp_path / "metadata.json").write_text(json.dumps({"a" * 5000: 1}))
    with pytest.raises(UserError, match=rf"^{tmp_path}/metadata.json: a+ \.\.\. a+: 1 \(wanted label and") as error:
        find_sources(tmp_path, Selection("c23"))
    assert len(str(error.value)) < 2100


@pytest.mark.parametrize("above", ["", "dfdc_train_part_0", "all/dfdc_train_part_0"])
def test_dfdc_parts_are_read_as_they_are_unpacked(tmp_path, above):
    for number in range(2):
        row = {f"r{number}": {"label": "REAL"}, f"f{number}": {"label": "FAKE", "original": f"r{number}.mp4"}}
        dfdc(tmp_path / f"{above}{number}", **row)
    found = find_sources(tmp_path, Selection("c23"))
    assert {source.video for source in found} == {"r0", "f0", "r1", "f1"}
    assert found[0].path == tmp_path / f"{above}0/part_0/r0.mp4"


@pytest.mark.parametrize("place", ["real/album", "fake/Swap/album", ".", "extra"])
@pytest.mark.parametrize("split", ["", "train/"])
def test_a_metadata_file_beside_pictures_is_not_dfdc(tmp_path, place, split):
    """As phones, photo services and data sets have them."""
    touch(tmp_path, f"{split}real/a.png", f"{split}fake/b.png")
    (tmp_path / split / place).mkdir(parents=True, exist_ok=True)
    (tmp_path / split / place / "metadata.json").write_text('{"title": "Holidays"}')
    assert {source.video for source in find_sources(tmp_path, Selection("c23"))} == {"a", "b"}


@pytest.mark.parametrize("name", ["../../outside", "/etc/x", "a/../../../x"])
def test_no_layout_leads_out_of_its_folder(tmp_path, name):
    dfdc(tmp_path / "dfdc", **{name: {"label": "REAL"}})
    write_splits(tmp_path / "ffpp", [[name, "000"]], [], [])
    celeb_df(tmp_path / "celeb", f"1 Celeb-real/{name}.mp4")
    touch(tmp_path / "ffpp", "original_sequences/youtube/c23/videos/000.mp4")
    for layout in ("dfdc", "ffpp", "celeb"):
        try:
            sources = find_sources(tmp_path / layout, Selection("c23"))
        except UserError as error:
            assert f"leads out of {tmp_path / layout}" in str(error) or "are not in one split" in str(error)
        else:
            assert layout == "celeb" and name == "/etc/x"  # after Celeb-real/, a path inside
            assert all(source.path.is_relative_to(tmp_path / layout) for source in sources)


@pytest.mark.parametrize("row", [{"label": "MAYBE"}, {"split": "train"}, {"label": "REAL", "split": "dev"}, 3])
def test_bad_metadata_is_named(tmp_path, row):
    with pytest.raises(UserError, match=r"part_0/metadata\.json: .*a\.mp4"):
        find_sources(dfdc(tmp_path, a=row), Selection("c23"))


# Any other folder


def test_photos_without_split_folders_split_by_group_as_training_does(tmp_path):
    for person in range(30):
        for name in ("real", "fake"):
            save_rgb(tmp_path / f"{name}/{person}_{name}.png", np.zeros((8, 8, 3), np.uint8))
    expected = {record.path: record.split for record in list_images(tmp_path)[0]}
    sources = find_sources(tmp_path, Selection("c23"))
    found = {source.path.relative_to(tmp_path).as_posix(): source.split for source in sources}
    assert found == expected and len(set(found.values())) > 1


def test_missing_methods_are_named(tmp_path):
    for name in ("real/a.png", "fake/Swap/b.png", "fake/Blend/b.png"):
        save_rgb(tmp_path / name, np.zeros((8, 8, 3), np.uint8))
    assert {source.method for source in find_sources(tmp_path, Selection("c23", methods=("Swap",)))} == {"real", "Swap"}
    for methods in (("Swap", "Magic"), ("Magic",)):
        with pytest.raises(UserError, match=r"no method 'Magic' \(found Blend, Swap\)"):
            find_sources(tmp_path, Selection("c23", methods=methods))


def test_linked_folders_are_read_but_loops_of_links_are_not(tmp_path):
    save_rgb(tmp_path / "elsewhere/b.png", np.zeros((8, 8, 3), np.uint8))
    for name in ("real/a/c.png", "real/a/.hidden/d.png", "fake/Swap/b.png"):
        save_rgb(tmp_path / "in" / name, np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "in/real/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/real/a/up").symlink_to("../../real")
    expected = ["fake/Swap/b.png", "real/a/c.png", "real/linked/b.png"]
    assert sorted(record.path for record in list_images(tmp_path / "in")[0]) == expected
    found = find_sources(tmp_path / "in", Selection("c23"))
    assert sorted(source.path.relative_to(tmp_path / "in").as_posix() for source in found) == expected


def test_a_folder_named_real_inside_fake_is_refused(tmp_path):
    for name in ("real/a.png", "fake/real/a.png"):
        save_rgb(tmp_path / name, np.zeros((8, 8, 3), np.uint8))
    for read in (list_images, lambda root: find_sources(root, Selection("c23"))):
        with pytest.raises(UserError, match="a folder real/ inside fake/"):
            read(tmp_path)


def test_each_split_may_hold_a_file_of_the_same_name(tmp_path):
    """In a manifest an id is in one split, whatever the method: train/real/2 and test/fake/Swap/2 get different ids."""
    names = ("train/real/0", "train/real/2", "train/fake/0", "test/real/0", "test/real/1", "test/fake/Swap/2")
    frames = ("train/real/clip/0", "train/real/clip/1", "test/real/clip/0")
    for name in names + frames:
        save_rgb(tmp_path / f"in/{name}.png", np.zeros((32, 32, 3), np.uint8))
    run_here(tmp_path / "in", tmp_path / "out", "--crop", "none", "--size", "16", "--workers", 1)
    records, _ = list_images(tmp_path / "out")
    assert Counter((record.video, record.split) for record in records) == {
        ("real/train__0", "train"): 1,
        ("real/train__2", "train"): 1,
        ("real/train__clip", "train"): 2,
        ("fake/train__0", "train"): 1,
        ("real/test__0", "test"): 1,
        ("real/1", "test"): 1,
        ("real/test__clip", "test"): 1,
        ("Swap/test__2", "test"): 1,
    }


def test_frames_in_a_folder_are_one_video_in_one_split(tmp_path):
    """prepare.py and training list the same videos, split by the first folder."""
    for person in range(20):
        for name in (f"real/{person:03d}_talks", f"real/{person:03d}/a", f"fake/Swap/{person:03d}_999"):
            touch(tmp_path, f"{name}/0000.png", f"{name}/0001.png")
        touch(tmp_path, f"real/{person:03d}.png", f"fake/Swap/{person:03d}_998.png")
    records, _ = list_images(tmp_path)
    sources = find_sources(tmp_path, Selection("c23"))
    split = {source.path.relative_to(tmp_path).as_posix(): source.split for source in sources}
    assert split == {record.path: record.split for record in records} and len(set(split.values())) > 1
    groups = {(re.sub("(real|fake/Swap)/", "", path)[:3], split[path]) for path in split}
    assert len(groups) == 20, "one split a person"
    assert Counter(record.video for record in records)["real/007_talks"] == 2
    assert Counter(source.manifest_video for source in sources if "007" in source.video) == {
        "007": 1, "007_talks": 2, "007__a": 2, "007_999": 2, "007_998": 1,
    }  # fmt: skip
    assert {record.video for record in records if "007" in record.path} == {
        "real/007.png", "real/007_talks", "real/007/a", "Swap/007_999", "Swap/007_998.png",
    }  # fmt: skip


def test_videos_in_folders_split_by_the_first_folder(tmp_path):
    for person in range(20):
        touch(tmp_path, *(f"{top}/{person}/{n}.mp4" for top in ("real", "fake/Swap") for n in range(3)))
    sources = find_sources(tmp_path, Selection("c23"))
    assert len({(source.video.split("__")[0], source.split) for source in sources}) == 20
    assert len({(source.method, source.manifest_video) for source in sources}) == 120, "each is one video"


def test_donors_of_another_split_are_told(tmp_path, capsys):
    touch(tmp_path, *(f"real/{person:03d}_a.png" for person in range(20)))
    touch(tmp_path, *(f"fake/Swap/000_{person:03d}/{frame}.png" for person in range(20) for frame in range(2)))
    find_sources(tmp_path, Selection("c23"))
    splits = {f"{person:03d}": split_of_group(f"{person:03d}") for person in range(20)}
    others = sorted(person for person in splits if splits[person] != splits["000"])
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{len(others)} fakes are named after a real of another split" in line
    assert f"000_{others[0]}/0.png is in {splits['000']}, {others[0]} in {splits[others[0]]}" in line


def test_numbers_that_are_not_people_are_not_donors(tmp_path, capsys):
    """A number that every split has, or that is the whole name, is not a person."""
    touch(tmp_path, "train/real/0.png", "train/real/1.png", "train/real/7.png", "train/fake/2.png", "test/real/1.png")
    touch(tmp_path, "test/fake/0.png", "test/fake/x_1.png", "train/fake/7_1.png")
    find_sources(tmp_path, Selection("c23"))
    assert not capsys.readouterr().err
    touch(tmp_path, "test/fake/Swap/7_1.mp4")
    find_sources(tmp_path, Selection("c23"))
    assert "1 fakes are named after a real of another split" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="a backslash is in no file's name there")
def test_an_id_with_a_separator_is_refused(tmp_path):
    touch(tmp_path, "real/a\\b.mp4", "fake/Swap/a.mp4")
    with pytest.raises(UserError, match=r"b\.mp4: id 'a.*b' \(wanted a folder's name"):
        find_sources(tmp_path, Selection("c23"))


def test_two_files_of_one_id_are_refused(tmp_path):
    for name in ("real/a/b.png", "real/a__b.png", "fake/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        save_rgb(tmp_path / name, np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(UserError, match=r"real/a/b\.png .*real/a__b\.png .*same id real/a__b"):
        find_sources(tmp_path, Selection("c23"))


@pytest.mark.parametrize("what, wanted", [("absent", "no such folder"), ("empty", "no real"), ("one", "no fake")])
def test_bad_sources(tmp_path, what, wanted):
    if what != "absent":
        (tmp_path / "in").mkdir()
    if what == "one":
        save_rgb(tmp_path / "in/real/a.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(UserError, match=wanted):
        find_sources(tmp_path / "in", Selection("c23"))
