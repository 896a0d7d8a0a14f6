"""The benchmarks: rows and reruns, the gate, the exactness of memory, the statistic, bad arguments, the report."""

from __future__ import annotations

import csv
import dataclasses
import sys
from itertools import product
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import cuda, memory, plots, registry, report, run, steps, table, timing
from benchmarks.gate import Gate
from benchmarks.memory import Event

TINY = ["--rounds", "3", "--threads", "1"]


@pytest.fixture(autouse=True)
def keep_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def measure(tmp_path, *arguments):
    out = tmp_path / "results.csv"
    return run.main([*arguments, *TINY, "--out", str(out)]), out


@pytest.mark.parametrize(
    ("layer", "contenders"),
    [
        ("emam", ["reference", "collapsed", "published", "copy"]),
        ("scam", ["reference", "collapsed", "copy", "reference", "collapsed", "timm", "published", "copy"]),
        ("emam-scam", ["reference", "collapsed", "copy"]),
    ],
)
def test_run_writes_a_row_for_each_contender_and_pass(tmp_path, layer, contenders):
    code, out = measure(tmp_path, "--layer", layer, "--shape", "2,16,5,4,4")
    rows = rows_of(out)
    assert code == 0
    assert [r["contender"] for r in rows if r["pass"] == "forward"] == contenders
    assert [r["contender"] for r in rows if r["pass"] == "training"] == contenders
    for row in rows:
        assert float(row["milliseconds"]) > 0 and float(row["speedup"]) > 0
        assert 3 <= int(row["rounds_kept"]) <= int(row["rounds"]) <= 9
        assert all(row[column] for column in ("hardware", "commit", "date", "torch"))
        if row["contender"] == "reference":
            assert float(row["speedup"]) == 1
        if row["contender"] != "copy":
            assert float(row["gate_error"]) < 1e-4
            assert int(row["peak_bytes"]) - int(row["peak_extra"]) <= 2 * 4 * 2 * 16 * 5 * 4
            assert (int(row["kept_bytes"]) > 0) == (row["pass"] == "training")


def test_detector_rows(tmp_path):
    code, out = measure(tmp_path, "--layer", "panet-tiny", "--shape", "2,3,64,64,8", "--rounds", "1")
    assert code == 0
    assert {(r["contender"], r["pass"]) for r in rows_of(out)} == {
        (c, p) for c in ("reference", "collapsed", "no attention") for p in ("forward", "training")
    }


def test_half_precision_and_channels_last_rows(tmp_path):
    code, out = measure(
        tmp_path, "--layer", "cbam", "--shape", "2,16,5,4,4",
        "--dtype", "bfloat16", "--layout", "channels_last", "--pass", "training",
    )  # fmt: skip
    assert code == 0
    assert {(r["dtype"], r["layout"]) for r in rows_of(out)} == {("bfloat16", "channels_last")}


def test_rerun_replaces_its_rows_and_no_others(tmp_path):
    _, out = measure(tmp_path, "--layer", "emam", "--shape", "2,16,5,4,4", "--pass", "forward")
    stale = [row | {"milliseconds": "123456"} for row in table.read(out)]
    other = stale[0] | {"shape": "1x1x1x1"}
    table.write(out, [other, *stale])
    measure(tmp_path, "--layer", "emam", "--shape", "2,16,5,4,4", "--pass", "forward")
    rows = rows_of(out)
    assert rows[0] == other
    assert [r["contender"] for r in rows[1:]] == ["reference", "collapsed", "published", "copy"]
    assert all(float(r["milliseconds"]) < 123456 for r in rows[1:])
    assert [p.name for p in tmp_path.iterdir()] == ["results.csv"]


class Wrong(nn.Module):
    """EMAM but for one border element of the output, or for the gradient of the input."""

    def __init__(self, fault):
        super().__init__()
        self.layer, self.fault = registry.EMAM(16, 4, backend="reference"), fault

    def forward(self, x):
        out = self.layer(x * 1.0001 - x.detach() * 0.0001 if self.fault == "gradient" else x)
        if self.fault == "output":
            out = out + nn.functional.pad(out.new_full((1, 1), 1e-4), (0, x.shape[3] - 1, x.shape[2] - 1, 0))
        return out * float("nan") if self.fault == "nan" else out


@pytest.mark.parametrize("fault", ["output", "gradient", "nan"])
def test_red_gate_refuses_the_row(tmp_path, monkeypatch, capsys, fault):
    wrong = registry.Contender("collapsed", lambda case: Wrong(fault))
    monkeypatch.setitem(registry._CONTENDERS, "emam", [registry._CONTENDERS["emam"][0], wrong])
    code, out = measure(tmp_path, "--layer", "emam", "--shape", "2,16,5,4,4", "--pass", "training")
    printed = capsys.readouterr()
    assert code == 1
    assert [r["contender"] for r in rows_of(out)] == ["reference", "copy"]
    assert "collapsed: refused, " + ("gradient of input" if fault == "gradient" else "output") in printed.out
    assert printed.err == "error: 1 rows refused\n"


class CompilerError(Exception):
    """Triton's are no RuntimeErrors either."""


@pytest.mark.parametrize("error", [RuntimeError, CompilerError])
def test_a_contender_that_cannot_run_is_refused_in_one_line(tmp_path, monkeypatch, capsys, error):
    def broken(case):
        raise error("no such device\nand a traceback")

    monkeypatch.setitem(
        registry._CONTENDERS, "emam", [*registry._CONTENDERS["emam"], registry.Contender("broken", broken)]
    )
    code, out = measure(tmp_path, "--layer", "emam", "--shape", "2,16,5,4,4", "--pass", "forward")
    assert code == 1
    assert "broken: failed, no such device\n" in capsys.readouterr().out
    assert [r["contender"] for r in rows_of(out)] == ["reference", "collapsed", "published", "copy"]


def test_a_reference_that_cannot_run_is_refused_in_one_line(tmp_path, capsys):
    code, out = measure(tmp_path, "--layer", "cbam", "--shape", "1,8,1,1,8", "--pass", "training")
    printed = capsys.readouterr()
    assert code == 1 and rows_of(out) == []
    assert "reference: failed, Expected more than 1 value per channel when training" in printed.out
    assert printed.err == "error: 1 rows refused\n"


@pytest.mark.parametrize("layer", registry.LAYERS[:4])
@pytest.mark.parametrize("shape", [(4, 8, 1, 2), (3, 32, 1, 7), (2, 24, 9, 2)])
def test_every_contender_passes_the_gate_on_odd_shapes(layer, shape):
    case = registry.Case(layer, shape, 8)
    for pass_ in registry.PASSES:
        gate = Gate(case, pass_)
        for contender in registry.contenders(layer):
            assert gate.judge(contender).fault == ""


@pytest.mark.parametrize("shape", [(2, 64, 3, 3), (2, 3, 8, 9), (1, 1, 1, 1)])
def test_maxima_of_scam_inputs_are_clear(shape):
    x = steps.clear_maxima(shape).flatten(2)
    for dim in (1, 2):
        if x.shape[dim] > 1:
            largest = x.topk(2, dim).values
            assert (largest.select(dim, 0) >= 1.5 * largest.select(dim, 1)).all()


def test_memory_of_a_hand_countable_module():
    elements, size = 1000 * 16, 4 * 1000 * 16
    x, grad = torch.randn(1000, 16, requires_grad=True), torch.ones(1000, 16)

    # The sigmoid is kept. Backward: grad * output is made while all lives, then the gradient of x beside it.
    step = steps.Step(lambda: x.sigmoid().exp(), lambda out: torch.autograd.grad(out, [x], grad))
    assert memory.measure(step) == (size, 4 * size, 2 * size)

    # The product keeps its inputs, which were there before; backward makes two gradients.
    y = torch.randn(1000, 16, requires_grad=True)
    step = steps.Step(lambda: x * y, lambda out: torch.autograd.grad(out, [x, y], grad))
    assert memory.measure(step) == (0, 3 * size, size)

    # A forward alone: the temporary is released, its peak remembered.
    step = steps.Step(lambda: x.detach().double().sum(), None)
    assert memory.measure(step) == (0, 8 * elements + 8, 8 * elements)


def test_replay_ignores_what_was_there_before_and_follows_reused_addresses():
    forward = [Event(1, 100), Event(9, -500), Event(2, 30), Event(1, -100), Event(3, 50)]
    backward = [Event(2, -30), Event(1, 200), Event(4, 10)]
    assert memory.replay(forward, backward, {3, 1}) == (30, 260, 130)


def test_statistic_leaves_disturbed_rounds_out():
    baseline = [10.0, 10.1, 50.0, 10.2, 9.9, 10.0, 10.1, 10.0]
    fast = [5.0, 5.1, 5.0, 5.1, 9.0, 9.0, 5.0, 5.0]
    result = timing.compare({"reference": baseline, "fast": fast})
    assert result["fast"].kept == 5 and result["fast"].rounds == 8
    assert result["fast"].speedup == pytest.approx(2, rel=0.02)
    assert result["fast"].milliseconds == pytest.approx(5000)
    assert result["reference"] == (pytest.approx(10000), 1.0, 7, 8)


def test_statistic_keeps_the_calmest_rounds_where_most_are_disturbed():
    result = timing.compare({"reference": [1.0, 3.0, 9.0, 5.0], "fast": [9.0, 1.0, 1.0, 7.0]})
    assert result["fast"].kept == 3


def test_measure_interleaves_and_goes_on_while_disturbed():
    order, now = [], [0.0]

    def step(name, seconds):
        def call():
            order.append(name)
            now[0] += seconds()

        return call

    # After the warm-up every other sample stalls; of each pair of steps the second is timed.
    stalls = iter([1.0] * 3 + [5.0, 1.0, 5.0, 2.0] * 100)
    both = {"a": step("a", lambda: next(stalls)), "b": step("b", lambda: 0.5)}
    result = timing.measure(both, 4, clock=lambda: now[0])
    assert order[6:14] == ["a", "a", "b", "b", "b", "b", "a", "a"]
    assert result["b"].speedup == pytest.approx(2)
    assert 4 <= result["b"].rounds <= 12


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--layer", "nothing"], "nothing"),
        (["--shape", "1,2,3"], "B,C,H,W,G, got '1,2,3'"),
        (["--shape", "1,-8,3,3,2"], "'1,-8,3,3,2'"),
        (["--layer", "emam", "--shape", "1,9,3,3,8"], "1,9,3,3,8: EMAM's groups G must divide"),
        (["--layer", "emam-scam", "--shape", "1,9,3,3,8"], "1,9,3,3,8: EMAM's groups G must divide"),
        (["--layer", "detector", "--shape", "1,3,32,32,8"], "at least 64"),
        (["--backends", "warp"], "'warp' is no contender of all; choose from reference, collapsed"),
        (["--rounds", "0"], "wanted a positive number, got '0'"),
        (["--threads", "two"], "'two'"),
        (["--dtype", "int8"], "int8"),
        (["--graph"], "--graph: needs --device cuda"),
        (["--suite", "gpu"], "--suite: needs --device cuda"),
        (["--suite", "cpu"], "cpu"),
        (["--minutes", "0"], "'0'"),
        (["--frobnicate"], "--frobnicate"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_code_2(capsys, arguments, words):
    with pytest.raises(SystemExit) as caught:
        run.main(arguments)
    message = capsys.readouterr().err
    assert caught.value.code == 2
    assert message.startswith("error: ") and message.count("\n") == 1 and words in message


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_gpu_is_a_bad_argument(capsys):
    with pytest.raises(SystemExit) as caught:
        run.main(["--device", "cuda"])
    assert caught.value.code == 2 and "no CUDA device" in capsys.readouterr().err


@pytest.fixture
def a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


def test_suite_for_a_gpu(a_gpu, capsys):
    assert run.main(["--device", "cuda", "--suite", "gpu", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {}  # of each input the contenders, whichever plan has them
    for line in lines:
        case, _, names = line.split(": ")
        rows.setdefault(case, set()).update(names.split(", "))
    usual = {"reference", "collapsed", "triton", "reference+graph", "collapsed+graph", "triton+graph", "copy"}
    of_layer = {"emam": {"published", "published+graph"}, "scam": set(), "cbam": {"timm", "timm+graph"}}
    compiled = {"reference+compile", "collapsed+compile", "reference+compile+graph", "collapsed+compile+graph"}
    for (layer, own), dtype, layout, shape in product(
        of_layer.items(), registry.DTYPES, registry.LAYOUTS, registry.GPU_SHAPES
    ):
        groups = f" G={shape[4]}" if layer == "emam" else ""
        found = rows[f"{layer} {'x'.join(map(str, shape[:4]))}{groups} {dtype} {layout}"]
        assert usual | own <= found
        if layer != "scam" and (dtype, layout) == ("bfloat16", "contiguous"):
            assert compiled <= found
    for batch, layer in product((8, 32, 128, 256), ("emam", "cbam")):
        assert usual <= rows[f"{layer} {batch}x728x19x19{' G=8' * (layer == 'emam')} bfloat16 contiguous"]
    autotuned = [line.split()[0] for line in lines if "reference+max-autotune, " in line]
    assert autotuned == ["emam", "cbam"]


def test_suite_begins_with_the_aims(a_gpu, capsys):
    """In bfloat16 every shape in a graph and out of one, then the compilers, then the layers in a row."""
    run.main(["--device", "cuda", "--suite", "gpu", "--list"])
    lines = capsys.readouterr().out.splitlines()
    shapes = len(registry.GPU_SHAPES)
    assert all("bfloat16 contiguous" in line and "triton+graph" in line for line in lines[: 2 * shapes + 8])
    assert {line.split()[0] for line in lines[: 2 * shapes]} == {"emam", "cbam"}
    assert all("reference+compile" in line for line in lines[2 * shapes : 2 * shapes + 2])
    assert sum(line.startswith("emam-scam") for line in lines[2 * shapes + 2 : 2 * shapes + 8]) == 2


def test_batch_dtypes_and_layouts_multiply(capsys):
    run.main(["--list", "--layer", "emam", "--shape", "2,16,5,4,4", "--batch", "7", "--backends", "published",
              "--dtype", "float32", "float16", "--layout", "contiguous", "channels_last"])  # fmt: skip
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == [
        f"emam 7x16x5x4 G=4 {dtype} {layout}"
        for dtype in ("float32", "float16")
        for layout in ("contiguous", "channels_last")
    ]


def test_triton_is_a_contender_on_a_gpu_only():
    for layer in registry.LAYERS:
        assert "triton" not in [c.name for c in registry.contenders(layer, "cpu", registry.Variants(True, True))]
        assert "triton" in [c.name for c in registry.contenders(layer, "cuda")]


def test_resume_skips_what_this_commit_has_measured(tmp_path, monkeypatch, capsys):
    here = table.provenance("cpu")
    for commit, again in (("abc1234", False), ("abc1234+", True)):
        monkeypatch.setattr(table, "provenance", lambda device, commit=commit: here | {"commit": commit})
        for number in range(2):
            capsys.readouterr()
            code, out = measure(tmp_path, "--layer", "emam", "--shape", "2,16,5,4,4", "--pass", "forward", "--resume")
            assert code == 0 and len(rows_of(out)) == 4
            assert bool(capsys.readouterr().out) == (number == 0 or again)
    monkeypatch.setattr(table, "provenance", lambda device: here | {"commit": "abc1234+", "torch": "0"})
    measure(tmp_path, "--layer", "emam", "--shape", "2,16,5,4,4", "--pass", "forward", "--resume")
    assert {row["torch"] for row in rows_of(out)} == {"0"}


def test_out_of_time_says_what_is_left(tmp_path, monkeypatch, capsys):
    ticks = iter([0.0, 10.0, 70.0, 80.0, 90.0])
    monkeypatch.setattr(run, "monotonic", lambda: next(ticks))
    code, out = measure(tmp_path, "--layer", "emam", "--shape", "2,16,5,4,4", "1,16,5,4,4", "--minutes", "1")
    assert code == 1 and len(rows_of(out)) == 4
    assert capsys.readouterr().err == "error: out of time with 3 inputs left; --resume goes on with them\n"


class FakeEvent:
    """A CUDA event on a made-up clock, on which a step takes 3 ms and all else none."""

    now = 0.0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.at = FakeEvent.now

    def elapsed_time(self, end):
        return end.at - self.at


def test_time_by_events_leaves_the_flush_out(monkeypatch):
    waits = []
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waits.append(None))
    monkeypatch.setattr(cuda, "torch", mock.Mock(wraps=torch, int8=torch.int8, cuda=torch.cuda))
    cuda.torch.empty = lambda size, dtype, device: torch.empty(16, dtype=dtype)
    sample = cuda.EventSampler()

    def forward():
        FakeEvent.now += 3

    step = steps.Step(forward, None)
    assert sample(step, 4) == pytest.approx(3e-3) and len(waits) == 5  # starts on an idle GPU, each time
    assert sample(dataclasses.replace(step, graph=True), 4) == pytest.approx(3e-3) and len(waits) == 6
    assert timing.measure({"a": step, "b": step}, 3, sample)["b"].milliseconds == pytest.approx(3)


def test_list_measures_nothing(tmp_path, capsys):
    code, out = measure(tmp_path, "--list", "--compile", "--layer", "cbam", "--shape", "2,16,5,4,4")
    assert code == 0 and not out.exists()
    assert capsys.readouterr().out == (
        "cbam 2x16x5x4 float32 contiguous: forward, training: "
        "reference, collapsed, timm, published, reference+compile, collapsed+compile, copy\n"
    )


def test_backends_selects_contenders_beside_the_reference(tmp_path, capsys):
    measure(tmp_path, "--list", "--backends", "timm", "--layer", "cbam", "--shape", "2,16,5,4,4")
    assert capsys.readouterr().out.endswith("reference, timm, copy\n")


def test_a_foreign_table_is_left_alone(tmp_path, capsys):
    out = tmp_path / "results.csv"
    out.write_text("name,price\napple,1\n")
    assert measure(tmp_path, "--layer", "emam", "--shape", "2,16,5,4,4")[0] == 1
    assert out.read_text() == "name,price\napple,1\n"
    assert str(out) in capsys.readouterr().err


@pytest.fixture
def results(tmp_path):
    def row(contender, pass_, milliseconds, speedup, kept=""):
        empty = dict.fromkeys(table.COLUMNS, "")
        return empty | {
            "device": "cpu", "layer": "emam", "contender": contender, "pass": pass_, "shape": "8x728x19x19",
            "groups": "8", "dtype": "float32", "layout": "contiguous", "threads": "2", "hardware": "a CPU",
            "milliseconds": milliseconds, "speedup": speedup, "kept_bytes": kept, "peak_bytes": kept,
            "peak_extra": kept, "commit": "abc1234", "date": "2025-01-01", "torch": "2.11",
        }  # fmt: skip

    path = tmp_path / "results.csv"
    table.write(path, [
        row("reference", "forward", "52.3", "1"), row("collapsed", "forward", "6.7", "7.81", "0"),
        row("reference", "training", "155", "1", "35600000"), row("collapsed", "training", "30.1", "5.15", "1050000"),
        row("copy", "forward", "0.22", "238"),
    ])  # fmt: skip
    return path


def test_report_prints_a_markdown_table(results, capsys):
    assert report.main([str(results)]) == 0
    text = capsys.readouterr().out
    assert "### a CPU, 2 threads: float32, contiguous" in text
    assert "Commit abc1234 (2025-01-01, torch 2.11)." in text
    assert "| emam | 8x728x19x19, G=8 | collapsed | 6.7 | 7.81 | 30.1 | 5.15 | 1.05 | 1.05 | 1.05 |" in text
    assert "| emam | 8x728x19x19, G=8 | copy | 0.22 | 238 |  |  |  |  |  |" in text
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1


def test_report_draws_a_plot_and_writes_the_table(results, tmp_path):
    pytest.importorskip("matplotlib")
    plot, text = tmp_path / "plot.png", tmp_path / "table.md"
    assert report.main([str(results), "--plot", str(plot), "--out", str(text)]) == 0
    assert plot.read_bytes().startswith(b"\x89PNG") and text.read_text().startswith("###")


def test_report_of_a_missing_table_fails_in_one_line(tmp_path, capsys):
    assert report.main([str(tmp_path / "none.csv")]) == 1
    assert capsys.readouterr().err == f"error: {tmp_path / 'none.csv'} has no rows\n"


@pytest.fixture
def gpu_results(tmp_path):
    """What a GPU might give: two inputs, two passes, eager and in graphs."""
    empty = dict.fromkeys(table.COLUMNS, "") | {
        "device": "cuda", "layer": "emam", "groups": "8", "dtype": "bfloat16", "layout": "contiguous", "threads": "2",
        "hardware": "a GPU", "commit": "abc1234", "date": "2025-01-01", "torch": "2.11", "speedup": "1",
    }  # fmt: skip
    times = {
        "reference": 0.4, "published": 0.3, "triton": 0.08, "reference+compile": 0.2, "reference+graph": 0.36,
        "triton+graph": 0.05, "reference+compile+graph": 0.15, "copy": 0.01,
    }  # fmt: skip
    path = tmp_path / "cuda.csv"
    table.write(path, [
        empty | {"contender": name, "pass": pass_, "shape": shape, "milliseconds": f"{time * scale * factor:.4g}"}
        for shape, scale in (("32x728x19x19", 1), ("32x728x38x38", 4))
        for pass_, factor in (("forward", 1), ("training", 3))
        for name, time in times.items()
    ])  # fmt: skip
    return path


def test_summary_of_a_gpu(gpu_results, capsys):
    assert report.main([str(gpu_results), "--summary"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("### a GPU: bfloat16, contiguous, microseconds\n")
    assert "| triton+graph against the best baseline | of the copy's speed |" in text
    assert (
        "| emam | 32x728x19x19, G=8 | forward | 400 | 300 | 80 | 200 | 360 | 50 | 150 | 10 | 3.00x | 20% |\n" in text
    )
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1


def test_summary_adds_up_the_layers_beside_both_in_a_row(gpu_results, capsys):
    rows = table.read(gpu_results)
    scam = [row | {"layer": "scam", "groups": ""} for row in rows]
    table.write(gpu_results, [*rows, *scam, *(row | {"layer": "emam-scam"} for row in rows)])
    report.main([str(gpu_results), "--summary"])
    lines = [line.split(" | ") for line in capsys.readouterr().out.splitlines()]
    (both,) = [line for line in lines if line[:3] == ["| emam-scam", "32x728x19x19, G=8", "forward"]]
    (added,) = [line for line in lines if line[:3] == ["| emam + scam", "32x728x19x19, G=8", "forward"]]
    assert both[3] == "400" and added[3] == "800" and len(both) == len(added)


def test_roofline_of_a_gpu(gpu_results, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    drawn, save, plot = {}, plots._save, tmp_path / "roofline.png"
    monkeypatch.setattr(plots, "_save", lambda figure, path: drawn.update(figure=figure) or save(figure, path))
    assert report.main([str(gpu_results), "--roofline", str(plot), "--out", str(tmp_path / "table.md")]) == 0
    assert plot.read_bytes().startswith(b"\x89PNG")
    forward, training = drawn["figure"].axes
    (copy,) = forward.lines
    megabytes = 2 * 2 * 32 * 728 * 19 * 19 / 1e6
    assert copy.get_xdata()[0] == pytest.approx(megabytes) and copy.get_ydata()[0] == pytest.approx(megabytes / 0.01)
    assert training.lines[0].get_ydata()[0] == pytest.approx(2.5 * megabytes / 0.03)


def test_a_roofline_needs_a_copy(gpu_results, tmp_path, capsys):
    rows = [row for row in table.read(gpu_results) if row["contender"] != "copy"]
    table.write(gpu_results, rows)
    assert report.main([str(gpu_results), "--roofline", str(tmp_path / "roofline.png")]) == 1
    assert capsys.readouterr().err == "error: nothing to draw: the table has no row of 'copy'\n"
