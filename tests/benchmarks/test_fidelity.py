"""python -m benchmarks.fidelity: docs/fidelity.md says what it prints; a wrong layer, loss, size or default shows."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks.fidelity import __main__ as fidelity
from benchmarks.fidelity import detector, layers, losses, recipe, sizes
from benchmarks.fidelity.lines import Line, apart, errors_table, furthest

SHAPES = Path(__file__).parents[1] / "models/recce_state_dict.json"


@pytest.mark.slow
def test_the_page_says_what_the_script_prints(capsys):
    assert fidelity.main(["--check"]) == 0, capsys.readouterr().err


def test_the_cheap_tables_of_the_page(capsys):
    assert fidelity.main(["--tables", "layers", "losses", "--check"]) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.count("\n## ") == 1


def test_rows_are_found_whatever_their_errors():
    table = errors_table("T", [Line("a", "b", "c", 2e-15, 1e-12)])
    row = "| a | b | c | {} | {} |"
    assert fidelity.not_on_the_page(table, "text\n" + row.format("9e-16", "1e-12")) == []
    for wrong in (row.format("2e-15", "1e-09"), row.format("2e-15", "1e-12").replace("c", "d"), ""):
        assert fidelity.not_on_the_page(table, wrong) == ["fidelity.md has no row a | b | c | 2e-15 | 1e-12"]


def test_faults_end_with_exit_code_1(monkeypatch, capsys):
    monkeypatch.setitem(fidelity.TABLES, "losses", lambda: errors_table("T", [Line("a", "b", "c", 1.0, 1e-12)]))
    assert fidelity.main(["--tables", "losses"]) == 1
    assert capsys.readouterr().err == "fault: a, c: 1.0e+00\n"


def test_errors_are_shares_of_the_largest_value():
    assert apart(torch.tensor([1.0, 4.0]), torch.tensor([2.0, 4.0])) == 0.25
    assert apart(torch.zeros(2), torch.zeros(3)) == furthest({"a": torch.zeros(1)}, {"b": torch.zeros(1)}) == math.inf
    assert errors_table("T", [Line("a", "b", "c", math.nan, 1.0)]).faults == ["a, c: nan"]


def test_another_layer_shows(monkeypatch):
    monkeypatch.setattr(layers, "EMAM", partial(layers.EMAM, eps=1e-4))
    lines = [line for line in layers.lines() if line.subject.startswith("EMAM")]
    assert len(lines) == 4 and all(line.error > 1e-6 > line.bound for line in lines)


def test_another_loss_shows(monkeypatch):
    monkeypatch.setattr(losses, "PANetLoss", partial(losses.PANetLoss, lambda_metric=0.2))
    assert [line.of[:5] for line in losses.lines() if line.error > line.bound] == ["total"]


def test_another_default_shows(monkeypatch):
    text = " ".join(f"--{s.option} X some text (default: {s.wanted}; tiny: 7)" for s in recipe.SETTINGS)
    monkeypatch.setattr(recipe, "help_text", lambda: text)
    assert recipe.table().faults == []
    monkeypatch.setattr(recipe, "help_text", lambda: text.replace("0.0002", "0.002").replace("--flood", "--other"))
    assert recipe.table().faults == [
        "--lr: default 0.002, wanted 0.0002",
        "--flood: default missing, wanted 0.0",
    ]


@pytest.mark.slow
def test_another_network_shows(monkeypatch):
    monkeypatch.setattr(detector, "SCORED", (1, 3, 64, 64))
    monkeypatch.setattr(detector, "TRAINED", (2, 3, 64, 64))
    forward = detector.PublishedRECCE.forward
    monkeypatch.setattr(detector.PublishedRECCE, "forward", lambda model, images: forward(model, 0.999 * images))
    wrong = [line.of for line in detector.lines() if not line.error <= line.bound]
    assert len(wrong) == 6 and wrong[0].startswith("logits")


@pytest.mark.slow
def test_another_size_shows(monkeypatch):
    monkeypatch.setattr(sizes, "RECCES", "25,830,510")
    monkeypatch.setattr(sizes, "SIDE", 64)
    assert sizes.table().faults == ["RECCE, published structure: 25,830,509 parameters, published 25,830,510"]


def test_recces_parameters_are_those_of_the_published_shapes():
    shapes = json.loads(SHAPES.read_text())
    parameters = [shape for name, shape in shapes.items() if "running_" not in name and "num_batches" not in name]
    assert f"{sum(map(math.prod, parameters)):,}" == sizes.RECCES
