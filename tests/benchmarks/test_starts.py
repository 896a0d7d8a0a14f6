"""benchmarks/starts.py compares what it says: the same network and batches for every arm, differences by seeds."""

import pytest
import torch

from benchmarks import results_file, starts
from panet_layers.measuring import timing


def test_with_identity_an_arm_starts_where_the_plain_network_is():
    pytest.importorskip("sklearn")
    torch.manual_seed(0)
    plain = starts.network()
    starts.train(plain, *starts.digits(range(5)), epochs=2, rate=1e-3)
    expected, shares = starts.fine_tuned("none", plain, images=20, epochs=0, seed=3)
    assert 0 < expected < 100 and not shares
    for layer in starts.LAYERS:
        assert starts.fine_tuned(f"{layer}, identity", plain, 20, 0, 3) == (expected, [0.0, 0.0])
        assert starts.fine_tuned(f"{layer}, layer", plain, 20, 0, 3)[0] != expected


def test_differences_are_paired_by_seed_with_students_interval():
    found = {"a": [11.0, 22.0, 33.0], "b": [10.0, 20.0, 30.0]}
    assert starts._difference(found, "a", "b") == "+2.0 (-0.5 to +4.5)"


def test_trainings_are_stored_beside_those_of_other_options(tmp_path, capsys, one_thread, monkeypatch):
    pytest.importorskip("sklearn")
    pytest.importorskip("scipy")
    monkeypatch.setattr(starts, "train", lambda *_, **__: None)
    options = ["--folder", str(tmp_path), "--seeds", "2", "--images", "20"]
    assert starts.main([*options, "--epochs", "1"]) == 0
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) == 2 + len(starts.ARMS) + len(starts.LAYERS)
    assert starts.main([*options, "--epochs", "2"]) == 0
    rows = results_file.read(tmp_path / "starts.csv", starts.COLUMNS)
    assert len(rows) == 2 * 2 * len(starts.ARMS) and all(row["accuracy"] and row["commit"] for row in rows)
    assert all(len(row["shares"].split()) == (2 if "identity" in row["arm"] else 0) for row in rows)
    capsys.readouterr()
    assert starts.main([*options, "--epochs", "1", "--table"]) == 0 and capsys.readouterr().out == printed
    assert starts.main([*options, "--epochs", "3", "--table"]) == 1
    assert "starts.csv has no rows of 20 images, 3 epochs" in capsys.readouterr().err


def page():
    return (results_file.ROOT / "docs/insertion.md").read_text(encoding="utf-8")


def test_the_docs_show_the_accuracies_of_the_results():
    pytest.importorskip("scipy")
    rows, _ = starts.divided(starts.RESULTS / "starts.csv", 100, 30)
    assert len(rows) == 5 * len(starts.ARMS) and starts.accuracies(rows) in page()


def test_the_docs_give_the_shares_of_the_longer_trainings():
    rows, _ = starts.divided(starts.RESULTS / "starts.csv", 100, 120)
    if not rows:
        pytest.skip("not measured yet: python benchmarks/starts.py --epochs 120")
    shares, words = starts.shares_at_the_end(rows), " ".join(page().split())
    for layer in starts.LAYERS:
        assert f"at {shares[f'{layer}, identity']} for {layer}" in words


def test_the_docs_show_the_costs_of_the_results():
    rows = results_file.read(starts.RESULTS / "starts-cost.csv")
    if not rows:
        pytest.skip("not measured yet: python benchmarks/starts.py --cost")
    assert starts.costs(rows) in page()


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_the_table_of_costs_has_a_row_for_each_layer_map_and_pass(monkeypatch, tmp_path, capsys, one_thread):
    monkeypatch.setattr(starts, "MAPS", ((1, 16, 4, 4),))
    monkeypatch.setattr(timing, "PATIENCE_SECONDS", 0)
    assert starts.main(["--cost", "--rounds", "3", "--folder", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert len(results_file.read(tmp_path / "starts-cost.csv")) == 2 * 2 * len(starts.WAYS)
    assert starts.main(["--cost", "--table", "--folder", str(tmp_path)]) == 0 and capsys.readouterr().out == printed
    rows = printed.splitlines()[2:]
    cells = [row.strip("| ").split(" | ") for row in rows]
    assert [row[:2] for row in cells] == [
        [f"{layer}, 1x16x4x4", pass_] for layer in ("EMAM", "SCAM") for pass_ in ("inference", "training")
    ]
    assert all(float(value) >= 0 for row in cells for value in row[2:])
