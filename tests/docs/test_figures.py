"""Each figure on the front page stands in a file of results; a changed one, and one that no file has, is found."""

import json
import re
from pathlib import Path

import pytest

from benchmarks import readme_figures
from benchmarks.readme_figures import COUNTED, FIGURES, README, Figure, faults, faults_elsewhere, prose

PAGE = README.read_text(encoding="utf-8")


def test_each_figure_of_the_readme_is_in_a_file_of_results() -> None:
    assert list(faults(PAGE)) == []


def test_statements_of_other_pages_are_those_of_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(faults_elsewhere()) == []
    monkeypatch.setattr(readme_figures, "prose", lambda page: prose(page).replace("1.", "2.").replace("40", "25"))
    pages = [page for page, figures in readme_figures.ELSEWHERE.items() for _ in figures]
    assert [fault.partition(" does not say: ")[0] for fault in faults_elsewhere()] == pages


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.text[:30])
def test_a_changed_figure_is_found(figure: Figure) -> None:
    """Each number of the statement, changed on the page alone."""
    said = figure.text.format(*figure.values())
    numbers = list(re.finditer(rf"[\d.]*\d|\b(?:{'|'.join(COUNTED)})\b", said))
    assert numbers
    for number in numbers:
        other = "11" if number[0][0].isdecimal() else "eleven"
        changed = said[: number.start()] + other + said[number.end() :]
        found = list(faults(prose(PAGE).replace(said, changed)))
        assert f"README.md does not say: {said}" in found and any(repr(other)[1:-1] in fault for fault in found)


@pytest.mark.parametrize("number", ["99 %", "1.5x", "seven times", "3e-4"])
def test_a_number_of_no_file_is_found(number: str) -> None:
    (fault,) = set(faults(f"{PAGE}\nThis is {number} as fast.\n")) - set(faults(PAGE))
    assert fault.startswith(f"README.md says {number.split()[0]!r}")


def test_a_missing_file_is_named_with_the_command_that_makes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readme_figures, "RESULTS", README.parent / "nowhere")
    missing = [
        fault for fault in faults(PAGE) if fault.startswith("nowhere/cross_validation.json is missing; it is made")
    ]
    assert len(missing) == 1 and "cross_validate.py" in missing[0]
    elsewhere = list(faults_elsewhere())
    assert elsewhere[0].startswith("nowhere/cpu.csv is missing; it is made by python benchmarks/run.py")
    assert elsewhere[-1].startswith("nowhere/onnx-latency.csv is missing")


def test_the_numbers_are_those_of_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As quickstart.py, cross_validate.py and reproduce.py write them."""
    monkeypatch.setattr(readme_figures, "RESULTS", tmp_path)
    (tmp_path / "demonstration").mkdir()
    for seed, auc, seconds in ((0, 0.91, 170), (1, 0.93, None), (2, 0.92, 300)):
        levels = {"frame": {"auc": auc}, "video": {"auc": auc + 0.05}}
        run = {"seed": seed, "people": 14, "trivial_baseline_auc": 0.6, "seconds": seconds} | levels
        (tmp_path / f"demonstration/seed{seed}.json").write_text(json.dumps(run))
    people, seeds, *figures = readme_figures.demonstration()
    assert (people, seeds) == (14, "three") and figures == pytest.approx([0.91, 0.93, 0.96, 0.98, 0.6])
    assert readme_figures.minutes() == ("three",)
    groups = {
        f"people with {tone} faces": {"auc": [auc, 0, 1], "fpr_from_val": [fpr, 0, 1]}
        for tone, auc, fpr in (("darker", 0.8, 0.2), ("lighter", 0.9, 0.1))
    }
    (tmp_path / "cross_validation.json").write_text(json.dumps(groups | {"made by": {}}))
    assert readme_figures.lightness() == pytest.approx((0.8, 0.9, 20, 10))
    rows = [f"{model},{seed},{auc + seed / 10},0.59,15" for model, auc in AUCS.items() for seed in (0, 1)]
    head = "model,seed,auc_by_frame,trivial_baseline_auc,people"
    (tmp_path / "stand_in_visible.csv").write_text("\n".join([head, *rows]))
    assert readme_figures.stand_in() == (*map(pytest.approx, (0.55, 0.65, 0.75, 0.59)), "two", "15")


AUCS = {"xception": 0.5, "recce": 0.6, "panet": 0.7}
