"""The end of reproduce.py's report: what it answers, the intervals over videos, and the seeds that would be needed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from deepfake.common.cli import UserError
from deepfake.evaluating.bootstrap import resample
from deepfake.reproducing.claim import claim, people_needed
from deepfake.reproducing.coverage import Coverage
from deepfake.reproducing.paired_bootstrap import paired_intervals
from deepfake.reproducing.table_one import Cell, Result
from tests.deepfake.finished_trainings import result

FFPP = Coverage("f00d", True, True, [], Counter(), {})
OTHER = FFPP._replace(official=False, is_ffpp=False)


def results(folder: Path, *models: str, seeds: int = 3) -> list[Result]:
    aucs = {"panet": 0.93, "recce": 0.92, "xception": 0.90}
    return [result(folder, m, seed, aucs[m] + 0.005 * seed, "f00d") for m in models for seed in range(seeds)]


def test_on_ffpp_each_figure_and_gain_gets_an_answer(tmp_path):
    text = claim(results(tmp_path, "xception", "recce", "panet"), {"c23": FFPP})
    assert (
        "Of PANet's 2 figures 0 lie where one more of our trainings would, 2 do not, and for 0 it is not known." in text
    )
    assert "HQ (c23): ACC 83.50 ± 0.50, the paper's 97.26 (-13.76, outside" in text
    assert "HQ (c23), PANet minus RECCE: ACC +1.00 ± 0.00 over 3 seeds (differs from 0)" in text
    assert "HQ (c23), PANet minus Xception: " in text and "over videos [" in text
    rows = [line for line in text.splitlines() if line.startswith("| ") and "ACC" not in line]
    assert len(rows) == 11 and sum("**" in row for row in rows) == 3
    assert "| MesoNet | 83.10 | - |" in text and "| **PANet** | 97.26 (ours 83.50 ± 0.50) |" in text


def test_other_data_cannot_answer_and_name_no_figure_of_the_papers(tmp_path):
    text = claim(results(tmp_path, "recce", "panet"), {"c23": OTHER})
    assert "These data cannot answer" in text and "PANet minus RECCE" in text
    assert "97.26" not in text and "the paper's" not in text and "MesoNet" not in text


def test_without_panet_there_is_no_answer(tmp_path):
    text = claim(results(tmp_path, "recce"), {"c23": FFPP})
    assert "PANet is not among the trained models." in text and "minus" not in text
    assert "| **RECCE** |" in text and "| PANet |" in text


def test_one_seed_says_so(tmp_path):
    text = claim(results(tmp_path, "recce", "panet", seeds=1), {"c23": FFPP})
    assert "+1.00 (one seed)" in text and "the paper's +0.20 needs more than one seed" in text


def test_the_seeds_that_a_gain_needs():
    """By hand: t(0.975, 3) / 2 = 1.59 and t(0.975, 4) / sqrt(5) = 1.24, of a spread of 1."""
    seeds = Cell((1.0, 0.0, -1.0))
    assert seeds.spread == 1 and seeds.seeds_for(1.3) == 5 and seeds.seeds_for(-1.3) == 5 and seeds.seeds_for(1.6) == 4
    assert seeds.seeds_for(0.01) is None and seeds.seeds_for(0) is None and Cell((1.0,)).seeds_for(1.0) is None
    assert Cell((1.0, 1.0)).seeds_for(0.01) == 2


def write_scores(file: Path, scores, videos=60, frames=4) -> Path:
    lines = [
        f"{v}/{f},{('real', 'swap')[v % 2]}/{v},m,{v % 2},{scores(v, f)}" for v in range(videos) for f in range(frames)
    ]
    file.write_text("name,video,method,label,fake_probability\n" + "\n".join(lines))
    return file


def random_scores(seed):
    rng = np.random.default_rng(seed)
    return lambda video, frame: float(np.clip(0.25 + 0.5 * (video % 2) + rng.normal(0, 0.4), 0, 1))


def test_equal_models_differ_by_nothing_and_a_better_one_by_more(tmp_path):
    one = write_scores(tmp_path / "one.csv", random_scores(0))
    right = write_scores(tmp_path / "right.csv", lambda video, frame: float(video % 2))
    assert paired_intervals([(one, one)], ["acc", "auc"]) == {"acc": [0, 0], "auc": [0, 0]}
    low, high = paired_intervals([(right, one)], ["auc"])["auc"]
    assert 0 < low < high < 0.5
    turned = paired_intervals([(one, right)], ["auc"])["auc"]
    assert turned == pytest.approx([-high, -low])


def test_both_models_are_scored_on_the_same_draws(tmp_path):
    one, two = (write_scores(tmp_path / f"{seed}.csv", random_scores(seed)) for seed in (1, 2))
    alone = []
    for seed in (1, 2):
        draw = random_scores(seed)
        scores = [draw(video, frame) for video in range(60) for frame in range(4)]
        videos = [f"{video}" for video in range(60) for _ in range(4)]
        alone.append(resample(videos, [int(video) % 2 for video in videos], scores)["frame"]["auc"])
    expected = np.percentile(alone[0] - alone[1], [2.5, 97.5])
    assert paired_intervals([(one, two)], ["auc"])["auc"] == pytest.approx(expected, abs=1e-12)


def test_scores_of_other_images_are_refused(tmp_path):
    one = write_scores(tmp_path / "one.csv", random_scores(0))
    fewer = write_scores(tmp_path / "fewer.csv", random_scores(0), videos=50)
    with pytest.raises(UserError, match=r"fewer\.csv: has other images than .*one\.csv"):
        paired_intervals([(one, fewer)], ["auc"])
    (tmp_path / "bad.csv").write_text("name,video\na,b\n")
    with pytest.raises(UserError, match=r"bad\.csv: not what evaluate\.py writes"):
        paired_intervals([(one, tmp_path / "bad.csv")], ["auc"])
    with pytest.raises(UserError, match=r"gone\.csv"):
        paired_intervals([(one, tmp_path / "gone.csv")], ["auc"])


def test_intervals_over_people_are_wider_where_their_videos_are_alike(tmp_path):
    """Ten videos of each of six people, alike: as many resamples of people as one of each person's would give."""
    wrong = {3: 0.9, 7: 0.4}  # the fakes of one person and the reals of another are scored worse

    def scores(video, frame):
        return wrong.get(video % 12, float(video % 2))

    many, few = tmp_path / "many.csv", tmp_path / "few.csv"
    perfect = write_scores(tmp_path / "perfect.csv", lambda video, frame: float(video % 2))
    write_scores(many, scores)
    people = {f"{('real', 'swap')[v % 2]}/{v}": f"person {v % 12 // 2}" for v in range(60)}
    by_person = paired_intervals([(perfect, many)], ["acc", "auc"], people)
    write_scores(few, scores, videos=12, frames=1)
    perfect_few = write_scores(tmp_path / "perfect_few.csv", lambda video, frame: float(video % 2), videos=12, frames=1)
    assert by_person == paired_intervals([(perfect_few, few)], ["acc", "auc"], people)
    by_video = paired_intervals([(perfect, many)], ["acc", "auc"])
    assert np.diff(by_person["acc"]) > np.diff(by_video["acc"])


def test_the_people_that_a_difference_needs():
    """By hand: an interval half as wide needs four times the people."""
    assert people_needed(1.0, 0.2, 1.8, 15) == "differs from 0" == people_needed(-1.0, -1.8, -0.2, 15)
    assert people_needed(1.0, -1.0, 3.0, 15) == "not shown to differ from 0; that would take about 60 people"
    assert people_needed(-1.0, -3.0, 1.0, 15) == "not shown to differ from 0; that would take about 60 people"
    for none in (0.0, 1e-3):
        assert people_needed(none, -1.0, 1.0, 15).endswith("that would take more than 10000 people")


def test_gains_on_data_that_name_people_are_over_people(tmp_path):
    people = {"real/1": "ann", "FaceSwap/1_2": "ann", "real/2": "bob", "FaceSwap/2_1": "bob"}
    text = claim(results(tmp_path, "recce", "panet"), {"c23": OTHER._replace(people=people)})
    assert "over 2 people [" in text and "over videos" not in text
