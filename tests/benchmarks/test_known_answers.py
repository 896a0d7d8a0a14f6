"""benchmarks/known_answers.py: what signals and decoys have in common, a row for each training, the docs' table."""

from __future__ import annotations

import pytest
import torch

from benchmarks import known_answers, results_file
from benchmarks.known_answers import CHANNELS, SIDE, TASKS, pixel, stripe, texture

TOLERANCE = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(autouse=True)
def without_noise(monkeypatch):
    monkeypatch.setattr(known_answers, "noise", lambda count, draw: torch.zeros(count, CHANNELS, SIDE, SIDE))


def maps(draw_maps, label: int) -> torch.Tensor:
    return draw_maps(torch.full((40,), label), torch.Generator().manual_seed(0))


def test_a_pixel_is_nearly_lost_in_the_mean():
    torch.testing.assert_close(maps(pixel, 1).mean((2, 3))[:, 0], torch.full((40,), 6 / 361), **TOLERANCE)
    assert not maps(pixel, 0).any()


def test_a_stripe_and_its_decoy_have_the_same_values():
    signal, decoy = maps(stripe, 1)[:, 0].flatten(1), maps(stripe, 0)[:, 0].flatten(1)
    torch.testing.assert_close(signal.sort().values, decoy.sort().values, **TOLERANCE)


def test_a_stripe_is_a_row_or_a_column():
    full_rows = (maps(stripe, 1)[:, 0].mean(2) == 1.5).sum(1)
    full_columns = (maps(stripe, 1)[:, 0].mean(1) == 1.5).sum(1)
    assert ((full_rows + full_columns) == 1).all() and 0 < full_rows.sum() < 40


def test_a_texture_shows_in_no_mean_and_its_decoy_has_the_same_values():
    signal, decoy = maps(texture, 1), maps(texture, 0)
    for dimension in (1, 2, 3):
        torch.testing.assert_close(signal.mean(dimension), torch.zeros_like(signal.mean(dimension)), **TOLERANCE)
    torch.testing.assert_close(decoy.mean((2, 3)), torch.zeros(40, CHANNELS), **TOLERANCE)
    torch.testing.assert_close(signal.flatten(2).sort().values, decoy.flatten(2).sort().values, **TOLERANCE)


def test_neighbours_in_a_texture_have_opposite_signs():
    board = maps(texture, 1)[:, 0]
    products = board[:, :, 1:] * board[:, :, :-1]
    assert (products <= 0).all() and (products.flatten(1).sum(1) == -(1.5**2) * 30).all()
    decoy = maps(texture, 0)[:, 0]
    assert (decoy[:, :, 1:] * decoy[:, :, :-1] > 0).any()


def test_it_prints_a_row_for_each_layer_and_a_column_for_each_signal(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(known_answers, "STEPS", 2)
    monkeypatch.setattr(known_answers, "TESTED", 4)
    out = ["--out", str(tmp_path / "rows.csv")]
    assert known_answers.main(["--seeds", "2", *out]) == 0
    printed = capsys.readouterr().out
    head, _, *rows = printed.splitlines()
    assert head.count("|") == 2 + len(TASKS)
    assert [row.split(" | ")[0].strip("| ") for row in rows] == list(known_answers.LAYERS)
    stored = results_file.read(tmp_path / "rows.csv", known_answers.COLUMNS)
    assert len(stored) == 2 * len(TASKS) * len(known_answers.LAYERS)
    assert all(row["accuracy"] and row["commit"] and row["hardware"] for row in stored)
    assert known_answers.main(["--table", *out]) == 0 and capsys.readouterr().out == printed


def test_the_table_gives_mean_and_deviation_over_seeds(tmp_path, capsys):
    empty = dict.fromkeys(known_answers.COLUMNS, "") | {"layer": "EMAM", "signal": "a stripe"}
    rows = [empty | {"seed": str(seed), "accuracy": share} for seed, share in enumerate(("0.7", "0.8", "0.9"))]
    results_file.write(tmp_path / "rows.csv", rows, known_answers.COLUMNS)
    assert known_answers.main(["--table", "--out", str(tmp_path / "rows.csv")]) == 0
    assert "| EMAM |  | 80.0 ± 10.0 |  |" in capsys.readouterr().out


def test_the_docs_show_the_table_of_the_results():
    rows = results_file.read(known_answers.OUT, known_answers.COLUMNS)
    if not rows:
        pytest.skip("not measured yet: python benchmarks/known_answers.py")
    assert known_answers.markdown(rows) in (results_file.ROOT / "docs/layers.md").read_text(encoding="utf-8")


def test_a_file_without_rows_is_an_error(tmp_path, capsys):
    known_answers.results_file.write(tmp_path / "none.csv", [], known_answers.COLUMNS)
    assert known_answers.main(["--table", "--out", str(tmp_path / "none.csv")]) == 1
    assert capsys.readouterr().err == f"error: {tmp_path / 'none.csv'} has no rows\n"


def test_training_finds_a_signal_that_the_mean_shows(monkeypatch):
    monkeypatch.setattr(known_answers, "STEPS", 60)

    def everywhere(labels, draw):
        return labels[:, None, None, None] * torch.ones(1, CHANNELS, SIDE, SIDE)

    assert known_answers.accuracy(everywhere, torch.nn.Identity, seed=0) == 1


def test_the_same_seed_gives_the_same_accuracy(monkeypatch):
    monkeypatch.undo()  # with noise
    monkeypatch.setattr(known_answers, "STEPS", 5)
    found = [known_answers.accuracy(stripe, known_answers.LAYERS["EMAM"], seed) for seed in (3, 3, 4)]
    assert found[0] == found[1] != found[2]


def test_one_seed_is_refused(capsys):
    with pytest.raises(SystemExit) as caught:
        known_answers.main(["--seeds", "1"])
    assert caught.value.code == 2 and "--seeds 1 (wanted 2 or more" in capsys.readouterr().err
