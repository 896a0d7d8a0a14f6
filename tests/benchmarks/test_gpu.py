"""benchmarks/gpu.py: what it measures and in which order, that it goes on, and what its report says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import cases, gpu, gpu_report, insertion, results_file
from benchmarks.cases import Grid
from benchmarks.gpu import Plan
from panet_layers.measuring import timing
from tests.benchmarks.small_benchmarks import rows_of

TINY = Plan((Grid(("emam",), ((1, 16, 4, 4, 8),)), Grid(("cbam",), ((1, 16, 4, 4, 8),))), ("test_resnet",), 2, 32)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(timing, "PATIENCE_SECONDS", 0)
    monkeypatch.setitem(gpu.PLANS, "cpu", TINY)
    monkeypatch.setattr(insertion, "LAYERS", {name: insertion.LAYERS[name] for name in ("EMAM", "SCAM")})
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def benchmark(out: Path, *arguments: str) -> int:
    return gpu.main(["--device", "cpu", "--rounds", "3", "--threads", "1", "--out", str(out), *arguments])


@pytest.mark.slow
def test_one_command_writes_rows_table_and_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    assert benchmark(tmp_path) == 0
    layers, networks = rows_of(tmp_path / "layers.csv"), rows_of(tmp_path / "networks.csv")
    assert {(row["layer"], row["pass"]) for row in layers} == {
        (layer, pass_) for layer in ("emam", "cbam") for pass_ in ("forward", "training")
    }
    assert [row["contender"] for row in networks] == 2 * ["plain", "EMAM", "SCAM"]
    assert all(int(row["kept_bytes"]) > 0 for row in networks if row["pass"] == "training")
    text = (tmp_path / "report.md").read_text()
    assert text in capsys.readouterr().out
    assert text.count("images/s") >= 3 and "| test_resnet, 2x3x32x32 | EMAM |" in text
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def test_it_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first grid, the networks, the other grids; what the files have of this commit is not measured again."""
    pytest.importorskip("matplotlib")
    begun: list[str] = []

    def measured(case, pass_, found, rounds):
        begun.append(f"{case.layer} {pass_}")
        names = (*(c.name for c in found), "copy")
        return [results_file.new_row(case, pass_, name, here | TIMES) for name in names], []

    here = results_file.provenance("cpu") | {"commit": "abc1234"}
    monkeypatch.setattr(results_file, "provenance", lambda device: here)
    monkeypatch.setattr("benchmarks.run.measure", measured)
    monkeypatch.setattr(insertion, "rows_of", lambda network, pass_, images, rounds: begun.append(network) or [])
    assert benchmark(tmp_path) == 1  # no network's row was measured
    assert begun == ["emam forward", "emam training", "test_resnet", "test_resnet", "cbam forward", "cbam training"]
    assert benchmark(tmp_path) == 1
    assert begun[6:] == ["test_resnet", "test_resnet"]


@pytest.mark.slow
def test_a_network_that_does_not_fit_ends_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    pytest.importorskip("matplotlib")

    def too_large(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate more")

    monkeypatch.setattr(insertion, "rows_of", too_large)
    assert benchmark(tmp_path) == 1
    printed = capsys.readouterr()
    assert "test_resnet training: failed, CUDA out of memory.\n" in printed.out and "6 rows refused" in printed.err
    assert "| EMAM |" in (tmp_path / "report.md").read_text() and (tmp_path / "report.png").exists()


TIMES = {"milliseconds": "1", "speedup": "1", "rounds_kept": "3", "rounds": "3"}


def test_after_the_time_nothing_is_begun(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setattr("benchmarks.run.monotonic", lambda: 1e9)
    monkeypatch.setattr(gpu, "monotonic", lambda: 0.0)
    monkeypatch.setattr(gpu, "measure_networks", lambda *_: gpu.Outcome(0, 2))
    assert benchmark(tmp_path) == 1
    assert "nothing was measured" in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_on_a_gpu_it_measures_the_suite_and_three_networks() -> None:
    plan = gpu.PLANS["cuda"]
    assert plan.grids == cases.SUITES["gpu"]
    assert plan.networks == ("resnet50", "efficientnet_b0", "convnext_tiny")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_gpu_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        gpu.main([])
    message = capsys.readouterr().err
    assert caught.value.code == 2 and "no CUDA device" in message and message.count("\n") == 1


@pytest.fixture
def gpu_rows() -> list[results_file.Row]:
    """Made-up results of a GPU: two inputs, two passes, launched one by one and in graphs."""
    empty = dict.fromkeys(results_file.COLUMNS, "") | {
        "device": "cuda", "layer": "emam", "groups": "8", "dtype": "bfloat16", "layout": "contiguous", "threads": "2",
        "hardware": "a GPU", "commit": "abc1234", "date": "2025-01-01", "torch": "2.11",
    }  # fmt: skip
    times = {
        "reference": 0.4, "published": 0.3, "triton": 0.08, "cuda": 0.064, "collapsed": 0.05,
        "reference+compile": 0.2, "reference+graph": 0.36, "cuda+graph": 0.04, "reference+compile+graph": 0.16,
        "copy": 0.01,
    }  # fmt: skip
    return [
        empty | {
            "contender": name, "pass": pass_, "shape": shape, "milliseconds": f"{time * scale * factor:.4g}",
            "speedup": str(0.4 / time),
            "kept_bytes": "" if "graph" in name else "3000000" if name == "cuda" else "9000000",
        }
        for shape, scale in (("32x728x19x19", 1), ("32x728x38x38", 4))
        for pass_, factor in (("forward", 1), ("training", 3))
        for name, time in times.items()
    ]  # fmt: skip


def test_report_of_a_gpu(gpu_rows: list[results_file.Row]) -> None:
    """Beside the fastest other module that is launched alike; memory of a graph is that of the same without one."""
    text = gpu_report.report(gpu_rows, [])
    assert "### a GPU: bfloat16, contiguous" in text
    lines = [line for line in text.splitlines() if line.startswith("| EMAM | 32x728x19x19, G=8 |")]
    megabytes = 2 * 2 * 32 * 728 * 19 * 19 / 1e6
    speed, copied, in_graph = (f"{megabytes / time:.0f}" for time in (0.064, 0.01, 0.04))
    assert lines[0].endswith(f"| forward | cuda | 64 | 500000 | {speed} | {copied} |  | reference+compile | 3.12 |  |")
    assert f"| cuda+graph | 40 | 800000 | {in_graph} | {copied} |  | reference+compile+graph | 4 |  |" in lines[1]
    assert lines[2].endswith(" | 3 | reference+compile | 3.12 | 9 |")
    assert lines[3].endswith(" | 3 | reference+compile+graph | 4 | 9 |") and len(lines) == 4


def test_a_layer_without_another_module_has_empty_cells(gpu_rows: list[results_file.Row]) -> None:
    (line, *_) = gpu_report._lines([row for row in gpu_rows if row["contender"] in ("triton", "copy")])
    assert line[3] == "triton" and line[-3:] == ["", "", ""]


def test_the_plot_of_a_gpu_has_the_copy(gpu_rows: list[results_file.Row], tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("matplotlib")
    drawn: list = []
    monkeypatch.setattr(gpu_report, "save", lambda figure, path: drawn.append(figure))
    gpu_report.draw(gpu_rows, [], tmp_path / "plot.png")
    forward, training = drawn[0].axes
    (copy,) = forward.lines
    megabytes = 2 * 2 * 32 * 728 * 19 * 19 / 1e6
    assert copy.get_xdata()[0] == pytest.approx(megabytes) and copy.get_ydata()[0] == pytest.approx(megabytes / 0.01)
    assert training.lines[0].get_ydata()[0] == pytest.approx(2.5 * megabytes / 0.03)
