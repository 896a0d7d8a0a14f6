"""benchmarks/starts.py compares what it says: the same network and batches for every arm, differences by seeds."""

import pytest
import torch

from benchmarks import starts


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


def test_the_table_of_costs_has_a_row_for_each_layer_map_and_pass(monkeypatch):
    monkeypatch.setattr(starts, "MAPS", ((1, 16, 4, 4),))
    rows = starts.cost(rounds=3).splitlines()[2:]
    cells = [row.strip("| ").split(" | ") for row in rows]
    assert [row[:2] for row in cells] == [
        [f"{layer}, 1x16x4x4", pass_] for layer in ("EMAM", "SCAM") for pass_ in ("inference", "training")
    ]
    assert all(float(value) >= 0 for row in cells for value in row[2:])
