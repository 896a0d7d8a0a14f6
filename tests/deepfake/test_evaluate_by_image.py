"""evaluate.py by image: the threshold from val beside 0.5, darker and lighter faces, in metrics.json and in words."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

import evaluate
from deepfake.common.cli import UserError
from deepfake.data import open_split
from deepfake.evaluating import evaluation
from deepfake.evaluating.lightness import figures_by_lightness, lightness_of
from deepfake.evaluating.thresholds import at_thresholds, fit_threshold
from tests.deepfake.scripts import evaluated
from tests.deepfake.tiny_runs import build, save_images, save_run

SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Crops around boxes, but for one image; each person's first image is dark, the second light."""
    root = save_images(tmp_path_factory.mktemp("data") / "faces", SPLITS, people=4)
    rows = [json.loads(line) for line in (root / "manifest.jsonl").read_text().splitlines()]
    for row in rows:
        pixels = np.asarray(Image.open(root / row["path"])) // 4
        Image.fromarray((pixels + (0, 150)[row["frame"]]).astype(np.uint8)).save(root / row["path"])
        row["box"] = [8, 8, 70, 70]
    rows[-1]["box"] = None
    (root / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


@pytest.fixture(autouse=True)
def no_pictures_no_baseline(monkeypatch):
    """They take most of an evaluation's time."""
    monkeypatch.setattr(evaluation, "baseline_of", lambda *_: None)
    monkeypatch.setattr(evaluation, "_write_pictures", lambda *_: None)


def scores_of(out):
    with open(out / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["video"] for row in rows], np.array([float(row["fake_probability"]) for row in rows])


def test_the_figures_are_those_of_the_listed_scores(run, folder, tmp_path, capsys):
    metrics = evaluated(run, folder, tmp_path / "test", "--resamples", 30)
    printed = capsys.readouterr().out
    evaluated(run, folder, tmp_path / "val", "--split", "val")
    labels = {split: open_split(folder, split, 64).labels for split in ("val", "test")}
    threshold = fit_threshold(labels["val"], scores_of(tmp_path / "val")[1])
    assert metrics["threshold_from_val"] == pytest.approx(threshold, abs=1e-9)

    videos, scores = scores_of(tmp_path / "test")
    by_image = (videos, labels["test"], scores, metrics["threshold_from_val"], 30, 0)
    assert metrics["at_threshold"] == at_thresholds(*by_image)
    assert metrics["at_threshold"]["0.5"]["acc"] == metrics["frame"]["acc"]
    light = lightness_of(open_split(folder, "test", 64))
    assert metrics["lightness"] == figures_by_lightness(light, *by_image)
    counts = {name: [metrics["lightness"][name][n] for n in ("n_real", "n_fake")] for name in ("darker", "lighter")}
    assert counts == {"darker": [4, 4], "lighter": [4, 3]} and metrics["lightness"]["n_unknown"] == 1

    lines = printed.splitlines()
    heads = next(line.split() for line in lines if line.startswith("by frame (image)"))
    assert heads[-7:] == ["AUC", "FPR", "bal.ACC", "FPR", "bal.ACC", "real", "fake"]
    for name, videos in (("darker", 8), ("lighter", 7)):
        group = metrics["lightness"][name]
        rates = [100 * at[key] for at in group["at_threshold"].values() for key in ("fpr", "balanced_acc")]
        cells = [f"{figure:.2f}" for figure in (100 * group["auc"], *rates)]
        row = next(line.split() for line in lines if line.startswith(f"{name} faces, {videos} videos"))
        assert row[4:] == [*cells, str(group["n_real"]), str(group["n_fake"])]
    assert "darker faces, of skin or of light: CIELAB L* of the crop's middle below 45" in printed
    assert "images without a box, in no group: 1" in printed
    assert f"at {threshold:.4g}" in printed


def test_the_groups_do_not_depend_on_the_size_of_the_network(folder):
    sizes = [lightness_of(open_split(folder, "test", size)) for size in (32, 64)]
    assert np.array_equal(*sizes, equal_nan=True)


def test_without_a_val_split_the_reason_is_printed(run, tmp_path, capsys):
    folder = save_images(tmp_path / "faces")
    metrics = evaluated(run, folder, tmp_path / "out")
    printed = capsys.readouterr().out
    assert "no threshold from val" in printed and "the val split is empty" in printed
    assert metrics["threshold_from_val"] is None and metrics["at_threshold"]["from_val"] is None
    assert metrics["lightness"] is None
    assert "no groups by the lightness of the face: no image has the box of a face" in printed


def test_val_is_no_val_split_of_itself(run, folder, tmp_path, capsys):
    metrics = evaluated(run, folder, tmp_path / "out", "--split", "val")
    assert metrics["threshold_from_val"] is None
    assert "no threshold from val: val itself is evaluated" in capsys.readouterr().out


def test_equal_scores_give_no_threshold(folder, tmp_path, capsys, monkeypatch):
    run = save_run(tmp_path / "run", build("panet"))
    monkeypatch.setattr(evaluation, "score_logits", lambda model, images, *_: np.zeros(len(images)))
    assert evaluated(run, folder, tmp_path / "out")["threshold_from_val"] is None
    assert "no threshold from val: all its images have the same score" in capsys.readouterr().out


def test_an_unreadable_val_image_costs_only_what_needs_it(run, tmp_path, capsys):
    folder = save_images(tmp_path / "faces", SPLITS)
    image = folder / "val_swap_1_0.png"
    image.write_bytes(image.read_bytes()[:200])
    assert evaluated(run, folder, tmp_path / "out")["threshold_from_val"] is None
    assert "no threshold from val:" in (printed := capsys.readouterr().out) and image.name in printed
    with pytest.raises(UserError, match=image.name):
        evaluated(run, folder, tmp_path / "calibrated", "--calibration")
    assert not list((tmp_path / "calibrated").glob("*"))


def test_val_is_scored_once(run, folder, tmp_path, monkeypatch):
    scored = []

    def score(model, images, *options):
        scored.append(images.names[0].split("_")[0])
        return np.linspace(-1, 1, len(images))

    monkeypatch.setattr(evaluation, "score_logits", score)
    evaluate.main([str(run), "--data", str(folder), "--out", str(tmp_path), "--calibration"])
    assert scored == ["test", "val"]
