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
from deepfake.demo import drawn_images
from tests.deepfake.scripts import environment

SCRIPT = Path(quickstart.__file__)


@pytest.fixture
def few_people(monkeypatch):
    """The demo with 32 training images instead of its thousands."""
    monkeypatch.setattr(drawn_images, "PEOPLE", {"train": 8, "val": 2, "test": 3})
    drawn_images.fingerprint.cache_clear()
    yield
    drawn_images.fingerprint.cache_clear()


def epochs(run):
    with open(run / "log.csv", newline="") as file:
        return [int(row["epoch"]) for row in csv.DictReader(file)]


def test_trains_evaluates_and_predicts_then_again(few_people, tmp_path, capfd):
    run = tmp_path / "demo"
    assert quickstart.main(["--out", str(run), "--epochs", "1"]) == 0
    printed = capfd.readouterr().out
    metrics = json.loads((run / "demo-test" / "metrics.json").read_text())
    assert (metrics["frame"]["n_real"], metrics["frame"]["n_fake"]) == (6, 6)
    assert f"{metrics['frame']['auc']:.3f}" in printed
    assert f"{metrics['trivial_baseline_auc']:.3f}" in printed
    assert "DEMONSTRATION" in printed
    for picture in ("demo-test/grid.png", "demo-test/roc.png", "demo-test/scores.png", "example.annotated.png"):
        assert str(run / picture) in printed
        with Image.open(run / picture) as image:
            image.verify()
    line = json.loads(next(line for line in printed.splitlines() if line.startswith("{")))
    assert line["path"] == str(run / "example.png")
    assert 0 <= line["fake_probability"] <= 1

    assert quickstart.main(["--out", str(run), "--epochs", "1"]) == 0  # finished: evaluated again
    assert epochs(run) == [1]
    assert json.loads((run / "demo-test" / "metrics.json").read_text()) == metrics

    assert quickstart.main(["--out", str(run), "--epochs", "2"]) == 0  # goes on where it stands
    assert epochs(run) == [1, 2]


def test_a_run_on_other_data_is_left_alone(few_people, tmp_path):
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
    assert metrics["frame"]["auc"] > metrics["trivial_baseline_auc"]
