"""cross_validate.py: every person tested once; figures of groups of people, with intervals by person."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from unittest.mock import ANY

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import cross_validate
from deepfake.common.cli import UserError
from deepfake.demo import people
from deepfake.demo.options import FOLDS, TRAINING
from deepfake.evaluating.by_person import Scored, figures
from deepfake.evaluating.evaluation import results_folder
from tests.deepfake.scripts import call


def scored(people_count: int, images: int, seed: int = 0) -> Scored:
    """Random scores; a person's images share an offset, so that people differ."""
    rng = np.random.default_rng(seed)
    person = np.repeat(np.arange(people_count), images)
    labels = np.tile([0, 1], people_count * images // 2)
    scores = np.clip(
        0.3 + 0.3 * labels + rng.normal(0, 0.2, people_count)[person] + rng.normal(0, 0.1, len(labels)), 0, 1
    )
    return Scored(person.astype(str), labels, scores, np.full(len(labels), 0.4))


def test_figures_are_those_of_the_scores():
    some = scored(9, 8)
    found = figures(some)
    real = some.labels == 0
    assert (found["people"], found["n_real"], found["n_fake"]) == (9, 36, 36)
    assert found["auc"][0] == pytest.approx(roc_auc_score(some.labels, some.scores))
    assert found["fpr"][0] == pytest.approx((some.scores[real] >= 0.5).mean())
    assert found["fpr_from_val"][0] == pytest.approx((some.scores[real] >= 0.4).mean())
    assert all(low <= figure <= high for figure, low, high in (found[key] for key in ("auc", "fpr", "fpr_from_val")))
    assert figures(some) == found


def test_intervals_are_by_person_so_more_images_of_the_same_people_do_not_narrow_them():
    few, many = scored(10, 4), scored(10, 4)
    many = Scored(*(np.tile(column, 25) for column in many))
    widths = [figures(some)["auc"][2] - figures(some)["auc"][1] for some in (few, many)]
    assert widths[1] == pytest.approx(widths[0], rel=1e-6)
    assert figures(scored(100, 4))["auc"][2] - figures(scored(100, 4))["auc"][1] < widths[0]


def write_results(run: Path, fold: int) -> None:
    """What train.py and evaluate.py leave of a fold: two images of each of its people, all answers right."""
    folder = results_folder(run, f"demo/{fold}")
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps({"threshold_from_val": 0.4}))
    (run / "config.json").write_text(json.dumps({"commit": "abc", "versions": {"torch": "2"}, "arguments": {}}))
    with open(folder / "scores.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "video", "method", "label", "fake_probability", "prediction", "lightness"])
        for person in sorted(people.folds()[fold]):
            for label, method in enumerate(("real", "swap")):
                name = f"test/{method}/{person}_neutral_0"
                lightness = people.person_lightness(person)
                writer.writerow([name, f"{method}/{person}_neutral", method, label, label, method, lightness])


def test_the_table_counts_everybody_once(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cross_validate, "run_fold", lambda fold, run, options: results_folder(run, f"demo/{fold}"))
    for fold in range(FOLDS):
        write_results(tmp_path / f"fold{fold}", fold)
    assert call(cross_validate.main, capsys, tmp_path)[0] == 2  # a folder that is not ours
    (tmp_path / "settings.json").write_text(json.dumps(settings_of(tmp_path / "new", monkeypatch)))
    code, printed, errors = call(cross_validate.main, capsys, tmp_path)
    assert code == 0 and not errors
    found = json.loads((tmp_path / "cross_validation.json").read_text())
    assert found["made by"] == {"training": ANY, "commit": "abc", "versions": {"torch": "2"}}
    assert found["all"]["people"] == 102 and found["all"]["auc"] == [1, 1, 1] and found["all"]["fpr"] == [0, 0, 0]
    dark, light = found["people with darker faces"], found["people with lighter faces"]
    assert dark["people"] + light["people"] == 102 and 10 < dark["people"] < 20
    table = (tmp_path / "cross_validation.md").read_text()
    assert table in printed and "1.000 [1.000, 1.000]" in table


def settings_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    """The settings that the command writes into a new folder, before any fold is trained."""
    with monkeypatch.context() as patch:
        patch.setattr(cross_validate, "groups", lambda results: {})
        cross_validate.main([str(folder)])
    return json.loads((folder / "settings.json").read_text())


def test_another_recipe_in_the_same_folder_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cross_validate, "run_fold", lambda *_: tmp_path)
    settings_of(tmp_path / "out", monkeypatch)
    code, _, errors = call(cross_validate.main, capsys, tmp_path / "out", "--seed", "9")
    assert code == 2 and "made with another training" in errors[0]
    code, _, errors = call(cross_validate.main, capsys, tmp_path / "out", "--data", "faces")
    assert code == 2 and "set by cross_validate.py" in errors[0]
    code, _, errors = call(cross_validate.main, capsys, tmp_path / "out", "--sead", "9")
    assert code == 2 and "--sead" in errors[0]


def test_a_fold_without_a_threshold_is_named(tmp_path):
    write_results(tmp_path, 0)
    folder = results_folder(tmp_path, "demo/0")
    (folder / "metrics.json").write_text(json.dumps({"threshold_from_val": None}))
    with pytest.raises(UserError, match=r"demo-0-test.metrics\.json has no threshold from val"):
        cross_validate.groups([folder])


def test_a_fold_is_trained_resumed_or_left_alone(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(cross_validate.train, "main", lambda arguments: asked.append(arguments))
    monkeypatch.setattr(cross_validate.evaluate, "main", lambda arguments: asked.append(arguments))
    run = tmp_path / "fold3"
    cross_validate.run_fold(3, run, ["--seed", "1"])
    assert asked == [["--data", "demo/3", "--out", str(run), *TRAINING, "--seed", "1"], [str(run), "--data", "demo/3"]]
    run.mkdir()
    (run / "config.json").write_text("{}")
    cross_validate.run_fold(3, run, [])
    assert asked[2][-1] == "--resume"
    write_results(run, 3)
    assert cross_validate.run_fold(3, run, []) == results_folder(run, "demo/3") and len(asked) == 4
