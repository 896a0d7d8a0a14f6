"""The grids of test crops in reproduce.py's report: a rule chooses them, and what is missing is named."""

import json
import re
from pathlib import Path

import pytest
import torch

from deepfake.dataset.images import open_folder, to_unit_range
from deepfake.dataset.manifest import Record
from deepfake.evaluating.metrics import shown, verdict
from deepfake.reproducing import report
from deepfake.reproducing.coverage import read_coverage
from deepfake.reproducing.qualitative_grids import choose, qualitative_grid
from deepfake.reproducing.table_one import Result
from tests.deepfake.finished_trainings import PAPERS, result
from tests.deepfake.tiny_runs import build, save_images, save_run


def test_the_first_crop_of_the_first_two_videos_is_chosen_whatever_the_order():
    records = [
        Record(f"{method}/{video}/{frame}.png", int(method != "real"), "test", method, f"{method}/{video}")
        for method in ("FaceSwap", "Deepfakes", "real")
        for video in ("3", "1", "2")
        for frame in (7, 4)
    ]
    found = [record.path for record in choose(records)]
    assert found == [f"{m}/{v}/4.png" for m in ("real", "Deepfakes", "FaceSwap") for v in (1, 2)]
    assert [record.path for record in choose(records[::-1])] == found


def trained(folder: Path, kind: str = "panet", seed: int = 0) -> Result:
    run = save_run(folder / f"c23-{kind}-seed{seed}", build(kind))
    return Result(kind, "c23", seed, run, {}, run / "scores.csv")


@pytest.mark.parametrize("kind", ["panet", "xception"])
def test_ground_truth_and_prediction_stand_above_each_tile(tmp_path, kind):
    data = save_images(tmp_path / "data")
    of = trained(tmp_path, kind)
    grid = qualitative_grid([of._replace(seed=1, run=tmp_path / "none"), of][::-1], "c23", data)
    images = open_folder(data, "test", 64)
    wanted = []
    for method, truth in (("", "real"), ("swap\n", "fake")):
        for person in range(2):
            index = images.names.index(f"test_{method.strip() or 'real'}_{person}_0.png")
            with torch.no_grad():
                logits = build(kind).eval()(to_unit_range(images[index][0][None])).logits
            score = logits.double().sigmoid().item()
            wanted.append(f"{method}GT {truth}\nPred {verdict(score)} ({shown(score)})")
    assert [axes.get_title() for axes in grid.figure.axes[: len(wanted)]] == wanted
    assert f"training {of.run.name}" in grid.text and "first two test videos" in grid.text


def test_what_is_missing_leaves_the_grid_out_and_is_named(tmp_path):
    data, of = save_images(tmp_path / "data"), trained(tmp_path)
    assert qualitative_grid([of], "c40", data) == (
        None,
        "LQ (c40): no grid of test crops, as no model is trained on it.",
    )
    for results, folder, said in (
        ([of], tmp_path / "gone", "gone: no such folder"),
        ([of._replace(run=tmp_path / "lost")], data, "lost does not exist"),
    ):
        found = qualitative_grid(results, "c23", folder)
        assert (
            found.figure is None and found.text.startswith("HQ (c23): no grid of test crops: ") and said in found.text
        )
    (data / "test_real_0_0.png").unlink()
    assert "test_real_0_0.png: no such" in qualitative_grid([of], "c23", data).text


def test_the_report_shows_one_grid_a_compression_or_says_why_not(tmp_path):
    data = {"c23": save_images(tmp_path / "c23"), "c40": save_images(tmp_path / "c40")}
    marks = {name: read_coverage(folder).fingerprint for name, folder in data.items()}
    made_up = result(tmp_path / "made_up", "panet", 0, 0.9, marks["c23"])
    run = save_run(tmp_path / "run", build("panet"))
    (run / "log.csv").write_text((made_up.run / "log.csv").read_text())
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({"commit": "0123", **config}))
    low = made_up.metrics | {"fingerprint": marks["c40"]}
    both = [made_up._replace(run=run), made_up._replace(compression="c40", metrics=low)]
    report.write_report(tmp_path / "report", both, data, PAPERS)
    text = (tmp_path / "report" / "report.md").read_text()
    assert re.search(r"!\[HQ \(c23\), PANet \(training run\): .*\]\(grid_c23\.png\)", text)
    assert (tmp_path / "report" / "grid_c23.png").is_file() and not (tmp_path / "report" / "grid_c40.png").exists()
    assert "LQ (c40): no grid of test crops: " in text
