"""benchmarks/eager_cost.py: a row for each layer, and nothing of the kernels in it."""

from __future__ import annotations

import re

import pytest
import torch

from benchmarks import eager_cost
from panet_layers import EMAM
from panet_layers.ops.native import library

pytestmark = pytest.mark.skipif(library.why_not() is not None, reason="needs the compiled kernels")


def test_it_prints_a_row_for_each_layer(monkeypatch, capsys):
    monkeypatch.setattr(eager_cost, "ROUNDS", 1)
    monkeypatch.setattr(eager_cost, "CALLS", 2)
    threads = torch.get_num_threads()
    try:
        assert run(monkeypatch) == 0
    finally:
        torch.set_num_threads(threads)
    first, _, *rows = capsys.readouterr().out.splitlines()
    assert re.search(r"torch.add takes \d+\.\d$", first)
    assert [re.fullmatch(r"(.+?) +(\d+\.\d) +(\d+\.\d)", row)[1] for row in rows] == list(eager_cost.LAYERS)


def test_without_kernels_nothing_is_computed():
    layer, x = EMAM(8, 4, backend="native"), torch.full((1, 8, 2, 2), 3.0)
    right = layer(x)
    with eager_cost.without_kernels():
        assert not torch.equal(layer(x), right)
    assert torch.equal(layer(x), right)


def test_missing_kernels_are_an_error(monkeypatch, capsys):
    monkeypatch.setattr(library, "why_not", lambda: "no library is built")
    assert run(monkeypatch) == 1
    assert capsys.readouterr().err == "error: no compiled kernels: no library is built\n"


def run(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.argv", ["eager_cost.py"])
    return eager_cost.main()
