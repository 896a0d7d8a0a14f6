"""quickstart.py: the README's first command, small and fast here, and once in full."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import quickstart
from deepfake.common.cli import UserError
from deepfake.demo.options import TRAINING
from deepfake.media.video import decode_frames
from deepfake.training.settings import parse
from tests.deepfake.scripts import environment

SCRIPT = Path(quickstart.__file__)
SAMPLES = ["real_photo.jpg", "real_clip.mp4", "fake_photo.jpg", "fake_clip.mp4"]
PICTURES = (
    *("demo-test/grid.png", "demo-test/roc.png", "demo-test/scores.png"),
    *("real_photo.annotated.png", "fake_photo.annotated.png", "real_photo.explained.png", "fake_photo.explained.png"),
)


def epochs(run):
    with open(run / "log.csv", newline="") as file:
        return [int(row["epoch"]) for row in csv.DictReader(file)]


@pytest.mark.slow
def test_trains_evaluates_and_predicts_then_again(one_shot, tmp_path, capfd):
    run = tmp_path / "demo"
    assert quickstart.main(["--out", str(run), "--epochs", "1", "--seed", "3"]) == 0
    printed = capfd.readouterr().out
    metrics = json.loads((run / "demo-test" / "metrics.json").read_text())
    assert metrics["frame"]["n_real"] == metrics["frame"]["n_fake"] == metrics["video"]["n_real"]
    for figure in (metrics["frame"]["auc"], metrics["video"]["auc"], metrics["trivial_baseline_auc"]):
        assert f"{figure:.3f}" in printed
    for group in ("darker", "lighter"):
        values = metrics["lightness"][group]
        assert f"({values['n_real']} real and {values['n_fake']} fake images): AUC {values['auc']:.3f}" in printed
    assert "DEMONSTRATION" in printed and str(run / "PORTRAITS-LICENCE.md") in printed
    assert (run / "demo-test" / "PORTRAITS-LICENCE.md").is_file()
    for picture in PICTURES:
        assert str(run / picture) in printed
        with Image.open(run / picture) as image:
            image.verify()
    assert len(list(decode_frames(run / "fake_clip.annotated.mp4"))) == 25
    lines = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    predicted = [line for line in lines if "explained" not in line]
    assert [Path(line["path"]).name for line in predicted] == SAMPLES
    assert all(line.get("box") or line["frames"][0]["box"] for line in predicted)  # found by the detector
    config = json.loads((run / "config.json").read_text())
    assert config["arguments"]["seed"] == 3
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["seed"], summary["epochs"], summary["people"]) == (3, 1, 14) and summary["seconds"] > 0
    assert summary["frame"] == metrics["frame"] and summary["machine"] == config["machine"]

    assert quickstart.main(["--out", str(run), "--epochs", "1"]) == 0  # finished: evaluated again
    assert epochs(run) == [1]
    assert json.loads((run / "summary.json").read_text()) == summary | {"seconds": None}  # not of the whole
    assert json.loads((run / "demo-test" / "metrics.json").read_text()) == metrics

    assert quickstart.main(["--out", str(run), "--epochs", "2"]) == 0  # goes on where it stands
    assert epochs(run) == [1, 2]


def test_a_file_in_the_place_of_the_run_is_refused_at_once(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot make the folder") as caught:
        quickstart.main(["--out", str(tmp_path / "file")])
    assert caught.value.exit_code == 2


def test_the_recipe_is_made_of_options_of_train():
    given, resume = parse(TRAINING)
    assert given["variant"] == "tiny" and not resume


def test_a_run_on_other_data_is_left_alone(one_shot, tmp_path):
    config = {"arguments": {"data": "photos", "variant": "tiny"}, "data": {"fingerprint": "other"}, "image_size": 64}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="does not hold the images"):
        quickstart.main(["--out", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.slow
def test_the_whole_example_learns(tmp_path):
    run = tmp_path / "demo"
    command = [sys.executable, str(SCRIPT), "--out", str(run)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr[-2000:]
    metrics = json.loads((run / "demo-test" / "metrics.json").read_text())
    assert metrics["frame"]["auc"] >= 0.90
    assert metrics["trivial_baseline_auc"] <= 0.62
