"""The report's numbers are those of the runs, and it says where a trial can show little."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest

from trial import outcome
from trial.budget import Budget

ACCURACIES = {"nothing": [90.0, 91.0, 92.0], "emam": [91.0, 93.0, 95.0], "constant": [90.0, 91.0, 92.0]}
CONFIG: dict[str, Any] = {
    "network": "net", "data": "own", "seeds": 3, "train_images": 10, "test_images": 100, "classes": ["a", "b"],
    "image_size": 8, "epochs": 2, "match": "epochs", "start": "identity", "locations": ["1"], "torch": "2",
    "device": "cpu", "most_common_class": 50.0,
}  # fmt: skip
STEPS = dict.fromkeys(ACCURACIES, 8)
PARAMETERS = {"nothing": 10, "emam": 15, "constant": 11}
BUDGET = Budget(STEPS, {"nothing": 0.1, "emam": 0.15, "constant": 0.1}, STEPS, PARAMETERS)


def runs(shift: float = 0.0) -> list[dict[str, Any]]:
    share = {"nothing": [], "emam": [0.25], "constant": [-0.5]}
    return [
        {"arm": arm, "seed": seed, "accuracy": values[seed] + shift, "test_loss": 0.5, "steps": 8,
         "shares": share[arm], "start": "x", "seconds": 1.0}
        for seed in range(3) for arm, values in ACCURACIES.items()
    ]  # fmt: skip


def cells(table: str, row: str) -> list[str]:
    (line,) = [line for line in table.splitlines() if line.startswith(f"| {row} ")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_by_hand() -> None:
    """Differences of EMAM from nothing: 1, 2, 3; the constant gate's are all 0."""
    text = outcome.results_table(outcome.judged(runs()))
    assert cells(text, "nothing") == ["nothing", "91.00 ± 1.00", "", "", "", ""]
    interval = "+2.00 (-0.48 to +4.48)"  # 4.3027 / sqrt(3) = 2.484
    assert cells(text, "EMAM") == ["EMAM", "93.00 ± 2.00", interval, "0.148", interval, "no evidence"]
    assert cells(text, "constant gate (placebo)")[2:] == ["+0.00 (all equal)", "1.000", "", "no evidence"]


def test_csv_holds_the_same_numbers() -> None:
    found = list(csv.DictReader(io.StringIO(outcome.table_csv(outcome.judged(runs())).decode())))
    assert [row["arm"] for row in found] == list(ACCURACIES)
    assert float(found[1]["minus_nothing"]) == 2 and float(found[1]["minus_nothing_std"]) == 1
    assert float(found[1]["minus_constant_high"]) == pytest.approx(4.484, abs=1e-3)
    every = list(csv.DictReader(io.StringIO(outcome.runs_csv(runs()).decode())))
    assert [float(row["accuracy"]) for row in every if row["arm"] == "emam"] == ACCURACIES["emam"]
    assert outcome.judged(every) == outcome.judged(runs())


def test_costs_are_beside_those_of_nothing() -> None:
    text = outcome.cost_table(BUDGET, runs())
    assert cells(text, "EMAM") == ["EMAM", "5", "8", "1.50", "0.25 to 0.25"]
    assert cells(text, "nothing") == ["nothing", "10 in all", "8", "1.00", ""]
    still = [run | {"shares": [-0.001, 0.004]} for run in runs()]
    assert cells(outcome.cost_table(BUDGET, still), "EMAM")[-1] == "0.00 to 0.00"


def test_a_trial_that_can_show_little_says_why() -> None:
    assert "**" not in outcome.report(CONFIG, BUDGET, runs())
    assert "**Nothing was learned" in outcome.report({**CONFIG, "most_common_class": 91.0}, BUDGET, runs())
    assert "there is little room" in outcome.report(CONFIG, BUDGET, runs(shift=8.5))
    failed = runs()
    failed[0]["test_loss"] = None
    assert "**1 of 9 trainings ended with a loss that is not finite" in outcome.report(CONFIG, BUDGET, failed)
