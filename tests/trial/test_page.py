"""The tables of docs/does_it_help.md are those of the stored trainings, and their verdicts what the page says."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from trial import outcome

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("start", ["identity", "layer"])
def test_the_tables_are_those_of_the_stored_trainings(start: str) -> None:
    with (ROOT / f"benchmarks/results/does_it_help_digits_{start}.csv").open(encoding="utf-8") as file:
        runs = list(csv.DictReader(file))
    page = (ROOT / "docs/does_it_help.md").read_text(encoding="utf-8")
    found = outcome.judged(runs)
    assert len(found) == 8 and {len(arm.accuracy.values) for arm in found} == {10}
    assert outcome.results_table(found) in page
    assert outcome.seeds_table(found) in page
    for seed in {run["seed"] for run in runs}:
        assert len({run["start"] for run in runs if run["seed"] == seed}) == 1
