"""Table I of reproduce.py: its arithmetic, and which data the report may compare with the paper."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import re
from pathlib import Path

import pytest

from deepfake.common.cli import UserError
from deepfake.reproducing import report
from deepfake.reproducing.coverage import read_coverage
from deepfake.reproducing.plan import is_evaluated
from deepfake.reproducing.table_one import Cell, Result, cell, gains, paper_figure, read_result
from deepfake.sources import ffpp
from tests.deepfake.finished_trainings import PAPERS, result


def test_mean_spread_and_verdict():
    values = Cell((96.0, 97.0, 98.0), paper=97.26)
    assert (values.mean, values.spread) == (97.0, 1.0)
    assert (
        values.text() == "97.00 ± 1.00"
        and values.text("+") == "+97.00 ± 1.00"
        and values.verdict() == "-0.26, within ±4.97"
    )
    assert Cell((96.9, 97.0, 97.1), paper=99.0).verdict() == "-2.00, outside ±0.50"
    assert Cell((96.0, 98.0), paper=97.0).verdict() == "+0.00, cannot tell, ±22.01"
    assert Cell((60.0, 62.0), paper=97.0).verdict() == "-36.00, outside ±22.01"
    assert values.interval == pytest.approx(4.3027 / math.sqrt(3), rel=1e-4)
    one = Cell((97.0,), paper=97.26)
    assert one.spread is None and one.verdict() == "-0.26, one seed, so no spread to compare with"


@pytest.mark.parametrize(
    ("model", "compression", "metric", "figure"),
    [
        ("xception", "c23", "acc", 95.73), ("xception", "c23", "auc", 96.30),
        ("xception", "c40", "acc", 86.86), ("xception", "c40", "auc", 89.30),
        ("recce", "c23", "acc", 97.06), ("recce", "c23", "auc", 99.32),
        ("recce", "c40", "acc", 91.03), ("recce", "c40", "auc", 95.02),
        ("panet", "c23", "acc", 97.26), ("panet", "c23", "auc", 99.37),
        ("panet", "c40", "acc", 91.37), ("panet", "c40", "auc", 94.90),
        ("panet", "raw", "acc", None), ("panet", "c23", "eer", None),
    ],
)  # fmt: skip
def test_the_papers_figures(model, compression, metric, figure):
    assert paper_figure(model, compression, metric) == figure


def data_folder(folder: Path, own_ids=False, missing=0) -> dict[str, Path]:
    """A manifest with FF++'s test videos, or with as many under other ids, as forge.py would name them."""
    pairs = ffpp.official_pairs()["test"]
    if own_ids:
        pairs = [(f"{2 * number:03d}", f"{2 * number + 1:03d}") for number in range(len(pairs))]
    fakes = [f"{a}_{b}" for pair in pairs for a, b in (pair, pair[::-1])]
    videos = [("real", name) for pair in pairs for name in pair] + [(m, name) for m in ffpp.METHODS for name in fakes]
    rows = [{"path": f"{m}/{name}/0.png", "method": m, "video": name, "split": "test"} for m, name in videos[missing:]]
    rows += [{"problem": "missing", "method": m, "video": name, "split": "test"} for m, name in videos[:missing]]
    rows.append({"path": "real/001/0.png", "method": "real", "video": "001", "split": "train"})
    folder.mkdir(parents=True)
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"c23": folder}


def some_results(folder: Path, data: dict[str, Path]) -> list[Result]:
    mark = hashlib.sha256((data["c23"] / "manifest.jsonl").read_bytes()).hexdigest()
    figures = {("recce", 0): 0.90, ("recce", 1): 0.92, ("panet", 0): 0.93, ("panet", 1): 0.93}
    return [result(folder, model, seed, auc, mark) for (model, seed), auc in figures.items()]


def report_of(folder: Path, recipe=PAPERS, **options) -> str:
    """The report on data with such a manifest."""
    data = data_folder(folder / "data", **options)
    report.write_report(folder / "report", some_results(folder, data), data, recipe)
    return (folder / "report" / "report.md").read_text()


def test_gains_are_taken_seed_by_seed(tmp_path):
    found = gains(some_results(tmp_path, data_folder(tmp_path / "data")), "c23", "auc")
    assert found.values == pytest.approx((3.0, 1.0)) and found.paper == pytest.approx(0.05)


def test_only_ffpps_own_test_split_is_compared(tmp_path):
    own, forged, gap, hole = (
        read_coverage(data_folder(tmp_path / name, **options)["c23"])
        for name, options in (
            ("own", {}), ("forged", {"own_ids": True}), ("gap", {"missing": 7}), ("hole", {"missing": 8}),
        )
    )  # fmt: skip
    assert [found.is_ffpp for found in (own, forged, gap, hole)] == [True, False, True, False]
    assert own.missing == [] and len(gap.missing) == 7 and set(gap.missing) < ffpp.official_test()
    results = some_results(tmp_path, {"c23": tmp_path / "own"})
    assert cell(results, "panet", "c23", "frame", "auc", ffpp=False).paper is None
    assert cell(results, "panet", "c23", "video", "auc", ffpp=True).paper is None


def test_a_compression_with_gaps_does_not_blank_the_other(tmp_path):
    data = data_folder(tmp_path / "c23") | {"c40": data_folder(tmp_path / "c40", missing=8)["c23"]}
    results = some_results(tmp_path / "a", data)
    results += [r._replace(compression="c40") for r in some_results(tmp_path / "b", {"c23": data["c40"]})]
    report.write_report(tmp_path / "report", results, data, PAPERS)
    high, low = (tmp_path / "report" / "report.md").read_text().split("## LQ (c40)")
    assert "**LQ (c40) is not FaceForensics++'s whole test split**" in high
    assert "99.37" in high and "94.90" not in low and "8 of its 700 missing." in low


def test_the_report_counts_videos_without_a_crop(tmp_path):
    text = report_of(tmp_path, missing=2)
    assert "Without a crop, in all splits: 2 missing videos." in text
    assert re.search(r"2 of its 700 missing: real/\d{3}, real/\d{3}\.", text) and "99.37" in text


def test_problems_are_counted_by_kind(tmp_path):
    problems = [("no face", 3), ("no face", 4), ("no face in any of 32 frames", None), ("not a video: broken", None)]
    rows = [{"method": "real", "video": "1", "split": "val", "problem": p, "frame": f} for p, f in problems]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_coverage(tmp_path).problems == {
        "frames without a face": 2, "videos without a face": 1, "unreadable videos": 1,
    }  # fmt: skip


def test_the_report_of_a_stand_in_names_no_figure_of_the_papers(tmp_path):
    text = report_of(tmp_path, own_ids=True)
    with open(tmp_path / "report" / "trainings.csv", newline="") as file:
        rows = [(row["model"], row["seed"], row["auc_by_frame"]) for row in csv.DictReader(file)]
    assert rows == [("recce", "0", "0.9"), ("recce", "1", "0.92"), ("panet", "0", "0.93"), ("panet", "1", "0.93")]
    assert "not FaceForensics++'s whole test split" in text and "97.26" not in text and "0.05" not in text
    assert "| PANet | 83.00 ± 0.00 | 93.00 ± 0.00 |" in text and "of its 700" not in text
    assert "Chosen on the test split" not in text
    for picture in re.findall(r"!\[.*\]\((.*)\)", text):
        assert (tmp_path / "report" / picture).is_file()


def test_the_report_on_ffpp_compares(tmp_path):
    data = data_folder(tmp_path / "data")
    results = some_results(tmp_path, data)
    report.write_report(tmp_path / "report", results, data, {**PAPERS, "also_chosen_on_test": True})
    text = (tmp_path / "report" / "report.md").read_text()
    assert "99.37" in text and "outside" in text and "80.0 %" in text and results[0].metrics["fingerprint"] in text
    assert "PANet minus RECCE, seed by seed, by frame" in text and "(the paper's: +0.05)" in text
    assert "| PANet | 60.00 ± 0.00 | 70.00 ± 0.00 |" in text  # the best of each column over the epochs
    assert "| c23-recce-seed0 | 1 | 70.00 | 0123456789 |" in text
    assert "without the flooding of its own code" in text and "not the paper's recipe" not in text


def test_each_method_is_shown_by_frame_and_by_video(tmp_path):
    text = report_of(tmp_path)
    assert "| AUC by frame | FaceSwap | Face2Face |" in text and "| AUC by video | FaceSwap | Face2Face |" in text
    assert "| RECCE | 91.00 ± 1.41 | 91.00 ± 1.41 |" in text and "| RECCE | 92.00 ± 1.41 | 92.00 ± 1.41 |" in text


def test_another_recipe_is_named_above_the_verdicts(tmp_path):
    recipe = {**PAPERS, "train": {"epochs": 2, "flood": 0.04}, "profile": "bench32"}
    text = report_of(tmp_path, recipe)
    assert "**This is not the paper's recipe** (`profile`: bench32; `train`: epochs 2, flood 0.04)" in text
    assert "all with `--flood 0.04`" in text


@pytest.mark.parametrize(("processes", "departs"), [(1, False), (2, False), (4, True)])
def test_two_gpus_are_the_papers(tmp_path, processes, departs):
    text = report_of(tmp_path, {**PAPERS, "processes": processes})
    assert ("not the paper's recipe** (`processes`: 4)" in text) == departs


def test_runs_on_other_data_are_not_joined(tmp_path):
    data = data_folder(tmp_path / "data")
    results = some_results(tmp_path, data)
    results[1].metrics["fingerprint"] = "another"
    with pytest.raises(UserError, match="other data were tested: c23-recce-seed1 on another"):
        report.write_report(tmp_path / "report", results, data, PAPERS)
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(("name", "value"), [("checkpoint_epoch", 2), ("fingerprint", "another")])
def test_metrics_of_another_epoch_or_data_are_refused(tmp_path, name, value):
    run = result(tmp_path, "panet", 0, 0.9, "f00d").run
    metrics = run / "c23-test" / "metrics.json"
    assert is_evaluated(run, metrics)
    read_result(run, metrics, "c23", "panet", 0)
    metrics.write_text(json.dumps({**json.loads(metrics.read_text()), name: value}))
    assert not is_evaluated(run, metrics)
    with pytest.raises(UserError, match=rf"metrics.json: {name} {value}, but the training in .*seed0 has"):
        read_result(run, metrics, "c23", "panet", 0)


def test_a_missing_log_is_named(tmp_path):
    run = result(tmp_path, "panet", 0, 0.9, "f00d").run
    (run / "log.csv").unlink()
    with pytest.raises(UserError, match=r"log\.csv: no such file"):
        read_result(run, run / "c23-test" / "metrics.json", "c23", "panet", 0)
