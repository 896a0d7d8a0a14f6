"""Training on some methods only: the images are those of the whole set, and the run records the methods."""

import json

import numpy as np
import pytest

import train
from deepfake.common.cli import UserError
from deepfake.common.texts import read_json
from deepfake.data import open_split
from deepfake.dataset.subset import of_methods
from deepfake.evaluating import cross_tables
from tests.deepfake.scripts import evaluated
from tests.deepfake.short_trainings import arguments
from tests.deepfake.tiny_runs import save_images


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two methods, in every split."""
    folder = save_images(tmp_path_factory.mktemp("data") / "faces", splits=("train", "val", "test"), people=4)
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    for row in rows:
        row["method"] = "blend" if row["label"] and int(row["video"][-1]) % 2 else row["method"]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize(("methods", "kept"), [("blend", {"blend"}), ("swap, blend", {"blend", "swap"})])
def test_only_reals_and_the_chosen_methods_are_left(folder, methods, kept):
    whole = open_split(folder, "train", 64)
    images = of_methods(whole, methods)
    places = [i for i, method in enumerate(whole.methods) if method in kept | {"real"}]
    assert len(images) == len(places) == len(images.files) == (12 if kept == {"blend"} else 16)
    for i, place in enumerate(places):
        assert np.array_equal(images[i][0], whole[place][0]) and images[i][1:] == (whole[place][1], i)
        assert images.names[i] == whole.names[place] and images.videos[i] == whole.videos[place]
        assert images.methods[i] == whole.methods[place]
    assert images.fingerprint == whole.fingerprint


def test_no_choice_returns_the_images_unchanged(folder):
    images = open_split(folder, "val", 64)
    assert of_methods(images, None) is images


def test_an_unknown_method_is_named(folder):
    with pytest.raises(UserError, match=r"no 'morph' in .*\(wanted blend, swap\)"):
        of_methods(open_split(folder, "val", 64), "swap,morph")


def test_a_run_records_the_methods_it_was_trained_on(folder, tmp_path):
    run = tmp_path / "run"
    train.main([*arguments(folder, run, "--methods", "blend"), "--epochs", "1", "--batch-size", "4"])
    assert read_json(run / "config.json")["data"]["methods"] == ["blend"]
    metrics = evaluated(run, folder, tmp_path / "results", "--resamples", 0)
    marked = {cell["method"]: cell["trained_on_it"] for cell in cross_tables.cells("run", metrics)}
    assert marked == {"all": False, "blend": True, "swap": False}
    with pytest.raises(UserError, match="--methods swap differs from the run's blend"):
        train.main(["--out", str(run), "--resume", "--methods", "swap"])
    train.main(["--out", str(run), "--resume", "--epochs", "2"])
    assert read_json(run / "config.json")["data"]["methods"] == ["blend"]
