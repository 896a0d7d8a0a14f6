"""reproduce.py's report begins with what published weights score on its crops, if they were evaluated."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

import reproduce
from deepfake.common.cli import UserError
from deepfake.reproducing import report
from deepfake.reproducing.coverage import Coverage
from deepfake.reproducing.published_weights import published_section, read_published
from tests.deepfake.finished_trainings import PAPERS, result

FFPP = Coverage("f" * 64, official=True, is_ffpp=True, missing=[], problems=Counter(), people={})
OTHER = FFPP._replace(fingerprint="0" * 64, is_ffpp=False)


def evaluated(folder: Path, name: str, code="RECCE", network="recce", fingerprint=FFPP.fingerprint, **changed) -> Path:
    """A folder as evaluate.py writes it for published weights, with RECCE's figures on its users' crops."""
    metrics = {
        "weights": {"file": f"/somewhere/{name}.pth", "sha256": "ab" * 32, "network": network, "code": code},
        "split": "test",
        "fingerprint": fingerprint,
        "frame": {"acc": 0.9169, "auc": 0.9860},
    }
    (folder / name).mkdir(parents=True)
    (folder / name / "metrics.json").write_text(json.dumps(metrics | changed))
    return folder


def test_recces_weights_stand_beside_the_paper(tmp_path):
    found = read_published(evaluated(tmp_path, "recce-c23"))
    text = published_section(found, {"c40": OTHER, "c23": FFPP})
    assert text.startswith("## Published weights on these crops\n\nOthers trained these weights")
    row = "| RECCE, its authors': `recce-c23.pth`, sha256 ababababab | HQ (c23) | 91.69 | 98.60 "
    assert row + "| 97.06 (-5.37 here) | 99.32 (-0.72 here) |" in text
    assert "91.03 (+0.66 here) | 95.02 (+3.58 here)" in published_section(found, {"c40": FFPP})


@pytest.mark.parametrize(
    ("network", "compression", "figure"),
    [
        ("recce", "c23", "96.21 (+2.39 here)"),
        ("recce", "c40", "81.90 (+16.70 here)"),
        ("xception", "c23", "96.37 (+2.23 here)"),
        ("xception", "c40", "82.61 (+15.99 here)"),
        ("xception", "raw", "-"),
    ],
)
def test_deepfakebenchs_weights_stand_beside_its_own_figures(network, compression, figure, tmp_path):
    found = read_published(evaluated(tmp_path, "best", code="DeepfakeBench", network=network))
    assert f"91.69 | 98.60 | - | {figure} |" in published_section(found, {compression: FFPP})


def test_data_that_are_not_ffpps_have_no_published_figure(tmp_path):
    found = read_published(evaluated(tmp_path, "x", fingerprint=OTHER.fingerprint))
    assert "| 91.69 | 98.60 | - | - |" in published_section(found, {"c23": OTHER})


def test_weights_evaluated_on_other_data_are_named_and_left_out(tmp_path):
    evaluated(evaluated(tmp_path, "a"), "b", fingerprint="1" * 64)
    text = published_section(read_published(tmp_path), {"c23": FFPP})
    assert "Left out, since they are of other data than this report: `published/b`." in text and "b.pth" not in text


@pytest.mark.parametrize(
    "changed",
    [{"weights": None}, {"split": "val"}, {"weights": {"network": "panet"}}, {"frame": {"acc": 1.0, "auc": None}}],
)
def test_another_evaluation_is_refused(changed, tmp_path):
    with pytest.raises(UserError, match=r"a.metrics\.json: not of published weights \(wanted what evaluate\.py"):
        read_published(evaluated(tmp_path, "a", **changed))


def test_another_evaluation_is_refused_before_the_first_step(tmp_path):
    (tmp_path / "out" / "published" / "a").mkdir(parents=True)
    (tmp_path / "out" / "published" / "a" / "metrics.json").write_text("{}")
    with pytest.raises(UserError, match=r"metrics\.json: not of published weights"):
        reproduce.main([str(tmp_path / "gone"), str(tmp_path / "out")])
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["published"]


def test_the_report_begins_with_it(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "manifest.jsonl").write_text('{"path": "a", "method": "real", "video": "1", "split": "test"}')
    data = {"c23": tmp_path / "data"}
    mark = report.read_coverage(data["c23"]).fingerprint
    results = [result(tmp_path, model, 0, 0.9, mark) for model in ("recce", "panet")]
    report.write_report(tmp_path / "report", results, data, PAPERS)
    plain = (tmp_path / "report" / "report.md").read_text()
    evaluated(tmp_path / "published", "recce", fingerprint=mark)
    report.write_report(tmp_path / "report", results, data, PAPERS)
    title, section, rest = (tmp_path / "report" / "report.md").read_text().split("\n\n", 2)
    assert section == "## Published weights on these crops" and rest.startswith("Others trained these weights")
    assert "Published weights" not in plain and rest.endswith(plain.removeprefix(title)[2:])
