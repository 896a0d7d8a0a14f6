"""Cross-manipulation and cross-dataset: each run on each method of each data set, and calibration as a command."""

import json

import numpy as np
import pytest
from PIL import Image

import evaluate
from deepfake.common.files import write_json
from deepfake.common.texts import read_json
from deepfake.data import open_split
from deepfake.evaluating import cross_tables
from deepfake.evaluating.metrics import evaluate_scores
from tests.deepfake.scripts import call, evaluated
from tests.deepfake.tiny_runs import build, save_images, save_run


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two runs, and two data sets: one method, and two."""
    root = tmp_path_factory.mktemp("cross")
    save_run(root / "first", build("recce"))
    save_run(root / "second", build("xception"))
    save_images(root / "one")
    two = save_images(root / "two_methods", splits=("train", "val", "test"), people=4)
    rows = [json.loads(line) for line in (two / "manifest.jsonl").read_text().splitlines()]
    for row in rows:
        if row["label"] and int(row["video"][-1]) % 2:
            row["method"] = "blend|er"
    (two / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = read_json(root / "first" / "config.json")
    fingerprint = open_split(two, "test", 64).fingerprint
    write_json(root / "first" / "config.json", config | {"data": {"fingerprint": fingerprint, "methods": ["swap"]}})
    return root


def test_each_run_on_each_method(folders, tmp_path, capsys):
    runs, data = [folders / "first", folders / "second"], [folders / "one", folders / "two_methods"]
    code, printed, _ = call(evaluate.main, capsys, *runs, "--data", *data, "--out", tmp_path, "--resamples", 20)
    assert code == 0
    found = json.loads((tmp_path / "cross.json").read_text())["cells"]
    cell_keys = [(cell["run"], cell["data"], cell["method"]) for cell in found]
    columns = [("one", "swap"), ("two_methods", "all"), ("two_methods", "blend|er"), ("two_methods", "swap")]
    assert cell_keys == [(run, *column) for run in ("first", "second") for column in columns]
    assert [place for cell, place in zip(found, cell_keys) if cell["trained_on_it"]] == [
        ("first", "two_methods", "swap")
    ]
    for cell in found:
        metrics = read_json(tmp_path / cell["run"] / f"{cell['data']}-test" / "metrics.json")
        levels = metrics if cell["method"] == "all" else metrics["methods"][cell["method"]]
        assert cell["video"] == levels["video"] and cell["frame"] == levels["frame"]
    table = (tmp_path / "cross.md").read_text()
    assert f"**{100 * found[3]['video']['auc']:.2f}** [" in table
    assert r"blend\|er" in table and "4 + 2" in table
    for cell in found:
        assert f"`{cell['fingerprint']}`" in table
    with Image.open(tmp_path / "cross.png") as image:
        image.verify()
    assert printed.count("this run, by frame") == 4


def test_a_method_is_its_fakes_against_all_reals(folders, tmp_path):
    metrics = evaluated(folders / "second", folders / "two_methods", tmp_path, "--resamples", 0)
    rows = [line.split(",") for line in (tmp_path / "scores.csv").read_text().splitlines()[1:]]
    mine = [row for row in rows if row[2] in ("real", "blend|er")]
    scores = [float(row[4]) for row in mine]
    assert metrics["methods"]["blend|er"] == evaluate_scores([r[1] for r in mine], [int(r[3]) for r in mine], scores)
    assert metrics["methods"]["blend|er"]["video"]["n_fake"] == 2
    assert "ci95" not in metrics["frame"] and "bootstrap" not in metrics


def test_one_run_on_several_sets_goes_into_its_folder(folders, tmp_path, capsys):
    run = save_run(tmp_path / "run", build("xception"))
    code, _, _ = call(evaluate.main, capsys, run, "--data", folders / "one", folders / "two_methods")
    assert code == 0
    assert {path.name for path in run.iterdir()} >= {"cross-test", "one-test", "two_methods-test"}
    assert len(json.loads((run / "cross-test" / "cross.json").read_text())["cells"]) == 4


def test_a_method_called_all_and_a_name_of_two_lines(tmp_path):
    level = {"auc": 0.75, "balanced_acc": 0.5, "acc": 0.5, "eer": 0.5, "n_real": 2, "n_fake": 3}
    levels = {"frame": level, "video": level}
    found = cross_tables.cells("a run", {
        "data": str(tmp_path / "two\nlines"), "fingerprint": "f00d", "methods": {"all": levels}, **levels,
        "trained_on": {"fingerprint": "f00d", "methods": None},
    })  # fmt: skip
    assert [(cell["method"], cell["trained_on_it"]) for cell in found] == [("all", True)]
    assert "| | two lines all |\n|---|---|\n| a run | **75.00** |\n" in cross_tables.markdown(found, "a title")


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (["{0}/first", "{0}/second", "--data", "{0}/one"], "--out", 2),
        (["{0}/first", "{0}/first/../first", "--data", "{0}/one", "--out", "{1}"], "two folders are called 'first'", 2),
        (["{0}/first", "--data", "{0}/one", "{0}/one", "--out", "{1}"], "two folders are called 'one'", 2),
        (["{0}/first", "{0}/third", "--data", "{0}/one", "--out", "{1}"], "third does not exist", 2),
        (["{0}/first", "--data", "{0}/one", "{0}/none", "--out", "{1}"], "none: no such folder", 2),
        (["{0}/first", "--data", "{0}/one", "--out", "{1}", "--resamples", "-1"], "'-1'", 2),
        (["{0}/first", "--data", "{0}/one", "--out", "{1}", "--calibration"], "the val split is empty", 2),
        (
            ["{0}/first", "--data", "demo", "--split", "val", "--out", "{1}", "--calibration"],
            "fits its temperature on val",
            2,
        ),
    ],
)
def test_what_is_wrong_is_known_before_anything_is_scored(arguments, words, code, folders, tmp_path, capsys):
    found, printed, errors = call(
        evaluate.main, capsys, *(text.format(folders, tmp_path / "out") for text in arguments)
    )
    assert (found, printed, len(errors)) == (code, "", 1)
    assert words in errors[0]
    assert not (tmp_path / "out").exists()


def test_calibration_as_a_command(folders, tmp_path, capsys):
    data = folders / "two_methods"
    code, printed, _ = call(
        evaluate.main, capsys, folders / "first", "--data", data, "--out", tmp_path, "--calibration"
    )
    result = read_json(tmp_path / "calibration.json")
    assert code == 0
    assert f"temperature {result['temperature']:.3f}" in printed
    assert result["val_nll"]["after"] <= result["val_nll"]["before"]
    scores = np.array([float(line.split(",")[4]) for line in (tmp_path / "scores.csv").read_text().splitlines()[1:]])
    counted = {round(row["low"] * 15): row["count"] for row in result["before"]["reliability"]}
    assert counted == {k: n for k, n in enumerate(np.histogram(scores, np.linspace(0, 1, 16))[0].tolist()) if n}
    with Image.open(tmp_path / "calibration.png") as image:
        image.verify()
