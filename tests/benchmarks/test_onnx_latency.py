"""benchmarks/onnx_latency.py times files that compute the float64 answer, and no others; the docs show its table."""

import pytest
import torch
from torch import nn

from benchmarks import onnx_latency, results_file
from benchmarks.onnx_latency import CONTENDERS, PLAIN, PUBLISHED

pytest.importorskip("onnx", reason="ONNX needs the packages of the extra `export`")
pytest.importorskip("onnxruntime", reason="ONNX needs the packages of the extra `export`")

SMALL = onnx_latency.Network(lambda: nn.Sequential(nn.Conv2d(3, 16, 3, 2), nn.SiLU(), nn.Conv2d(16, 4, 1)), ["1"])


@pytest.fixture
def measured(tmp_path, monkeypatch, capsys):
    """A function that measures the small network: the exit code, the rows, what was printed."""
    monkeypatch.setattr(onnx_latency, "NETWORKS", {"small": SMALL})
    threads, out = torch.get_num_threads(), tmp_path / "rows.csv"

    def run(*arguments):
        options = ["--network", "small", "--size", "32", "--rounds", "3", "--out", str(out)]
        code = onnx_latency.main([*options, *arguments])
        return code, results_file.read(out, onnx_latency.COLUMNS), capsys.readouterr()

    yield run
    torch.set_num_threads(threads)


def test_a_row_for_each_contender_and_the_table_of_the_file(measured):
    code, rows, printed = measured()
    assert code == 0 and [row["contender"] for row in rows] == list(CONTENDERS)
    for row in rows:
        assert 0 < float(row["minimum"]) <= float(row["milliseconds"]) and float(row["gate_error"]) < 1e-5
        assert bool(row["added"]) == (row["contender"] != PLAIN)
        assert all(row[column] for column in ("hardware", "commit", "date", "torch", "onnxruntime"))
    assert float(rows[-1]["times_as_fast"]) == 1
    code, again, table = measured("--table")
    assert code == 0 and again == rows and table.out == printed.out
    _, again, _ = measured()
    assert len(again) == len(rows)  # measuring again replaces them


class Wrong(nn.Module):
    """The published module with one wrong number."""

    def __init__(self, channels, groups):
        super().__init__()
        self.module = onnx_latency.EMAM(channels, groups)

    def forward(self, x):
        return self.module(x) * (1.001 if torch.onnx.is_in_onnx_export() else 1.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layer", "reason"), [(Wrong, "differs from the float64 answer"), (lambda *_, **__: nn.Identity(), "only; ")]
)
def test_a_file_with_another_result_is_not_timed(measured, monkeypatch, layer, reason):
    monkeypatch.setattr(onnx_latency, "PublishedEMA", layer)
    code, rows, printed = measured()
    assert code == 1 and [row["contender"] for row in rows] == [name for name in CONTENDERS if name != PUBLISHED]
    assert f"small, {PUBLISHED}, is not timed" in printed.err and reason in printed.err


def test_contenders_of_a_network_have_the_same_weights():
    images = torch.zeros(1, 3, 32, 32)
    ours, published = (onnx_latency.build(SMALL, name, images).double() for name in ("EMAM", PUBLISHED))
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(ours(x), published(x), rtol=1e-10, atol=1e-10)


def test_the_docs_show_the_table_of_the_results():
    rows = results_file.read(onnx_latency.OUT, onnx_latency.COLUMNS)
    assert len(rows) == len(CONTENDERS)
    assert onnx_latency.markdown(rows) in (results_file.ROOT / "docs/export.md").read_text(encoding="utf-8")
