"""benchmarks/insertion.py times the contenders that pass their check, and no others."""

import pytest
import torch
from torch import nn

from benchmarks import insertion, results_file
from panet_layers.measuring import timing

SMALL = ["--network", "test_resnet", "--size", "32", "--batch", "2", "--rounds", "3", "--threads", "1"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(timing, "PATIENCE_SECONDS", 0)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_rows_and_table(tmp_path, capsys):
    assert insertion.main([*SMALL, "--out", str(tmp_path / "rows.csv")]) == 0
    rows = results_file.read(tmp_path / "rows.csv")
    assert [row["contender"] for row in rows] == 2 * [insertion.PLAIN, *insertion.LAYERS]
    assert {row["pass"] for row in rows} == set(insertion.PASSES)
    assert all(float(row["milliseconds"]) > 0 for row in rows)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2 + 6 and all(line.count("|") == 7 for line in printed)
    assert insertion.main(["--table", "--out", str(tmp_path / "rows.csv")]) == 0
    assert capsys.readouterr().out.splitlines() == printed


class Wrong(nn.Module):
    """Its results depend on the backend, which is wrong."""

    def __init__(self, channels):
        super().__init__()

    def forward(self, x):
        from panet_layers import get_backend

        return x * (2.0 if get_backend() == "reference" else 1.5)


@pytest.mark.parametrize(
    ("layer", "fault"), [(Wrong, "differs from the formulas'"), (lambda _: nn.Identity(), "change nothing")]
)
def test_a_contender_that_fails_its_check_is_not_timed(layer, fault, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(insertion, "LAYERS", {"wrong": layer})
    assert insertion.main([*SMALL, "--pass", "inference", "--out", str(tmp_path / "rows.csv")]) == 1
    assert fault in capsys.readouterr().err
    assert [row["contender"] for row in results_file.read(tmp_path / "rows.csv")] == [insertion.PLAIN]


def test_the_table_of_the_page_is_that_of_the_stored_rows():
    rows = results_file.read(results_file.ROOT / "benchmarks/results/insertion-cpu.csv")
    page = (results_file.ROOT / "docs/insertion.md").read_text(encoding="utf-8")
    lines = [line for line in insertion.markdown(rows).splitlines() if "| --- " not in line]
    assert [line for line in lines if line not in page] == []
