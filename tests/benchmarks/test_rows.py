"""benchmarks/run.py: rows and reruns, the gate that refuses wrong results, bad arguments."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks import results_file, run
from benchmarks.cases import LAYERS
from benchmarks.contenders import CONTENDERS, Contender, contenders, find_contender
from benchmarks.gate import Gate
from benchmarks.prepared_steps import prepare
from panet_layers import EMAM
from panet_layers.measuring.cases import PASSES, Case
from panet_layers.measuring.draws import clear_maxima
from tests.benchmarks.small_benchmarks import OURS, measure, rows_of


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        ("emam", [*OURS, "published", "copy"]),
        ("scam", [*OURS, "copy", *OURS, "timm", "published", "copy"]),
        ("emam-scam", [*OURS, "copy"]),
    ],
)
def test_run_writes_a_row_for_each_contender_and_pass(tmp_path, layer, expected):
    code, out = measure(tmp_path, "--layer", layer, "--shape", "2,16,5,4,4")
    rows = rows_of(out)
    assert code == 0
    assert [r["contender"] for r in rows if r["pass"] == "forward"] == expected
    assert [r["contender"] for r in rows if r["pass"] == "training"] == expected
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


@pytest.mark.slow
def test_detector_rows(tmp_path):
    code, out = measure(tmp_path, "--layer", "panet-tiny", "--shape", "2,3,64,64,8", "--rounds", "1")
    assert code == 0
    both = (*OURS, "channels_last", "no attention", "published RECCE")
    wanted = {(name, pass_) for name in both for pass_ in ("forward", "training")} | {("folded", "forward")}
    assert {(r["contender"], r["pass"]) for r in rows_of(out)} == wanted
    assert all(float(r["gate_error"]) < 1e-3 for r in rows_of(out))


@pytest.mark.parametrize("pass_", PASSES)
def test_published_recce_computes_the_function_of_panet_without_attention(pass_):
    """In float64: the output, and the gradient of every parameter."""
    case = Case("panet-tiny", (2, 3, 64, 80), 8)
    ours, published = (
        prepare(case, find_contender("panet-tiny", name), pass_, torch.float64)
        for name in ("no attention", "published RECCE")
    )
    out, expected = published.forward(), ours.forward()
    gradients = published.backward(out), ours.backward(expected)
    assert bool(gradients[0]) == (pass_ == "training")
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=0)
    for actual, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(actual.reshape(wanted.shape), wanted, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("pass_", PASSES)
def test_a_detector_without_one_of_its_gates_is_refused(pass_):
    """The neighbours at 2x the resolution have no gate."""
    right = find_contender("panet-tiny", "published RECCE")

    def build(case):
        model = right.build(case)
        model.reasoning.neighbours_x2.gate.register_forward_hook(lambda module, args, out: 0 * out)
        return model

    gate = Gate(Case("panet-tiny", (2, 3, 64, 64), 8), pass_)
    assert gate.judge(right).fault == ""
    assert " differs from the float64 answer by " in gate.judge(right._replace(build=build)).fault


def test_half_precision_and_channels_last_rows(tmp_path):
    code, out = measure(
        tmp_path, "--layer", "cbam", "--shape", "2,16,5,4,4",
        "--dtype", "bfloat16", "--layout", "channels_last", "--pass", "training",
    )  # fmt: skip
    assert code == 0
    assert {(r["dtype"], r["layout"]) for r in rows_of(out)} == {("bfloat16", "channels_last")}


def test_measuring_again_replaces_its_own_rows_only(tmp_path):
    _, out = measure(tmp_path, "--layer", "emam", "--shape", "2,16,5,4,4", "--pass", "forward")
    stale = [row | {"milliseconds": "123456"} for row in results_file.read(out)]
    other = stale[0] | {"shape": "1x1x1x1"}
    results_file.write(out, [other, *stale])
    measure(tmp_path, "--layer", "emam", "--shape", "2,16,5,4,4", "--pass", "forward")
    rows = rows_of(out)
    assert rows[0] == other
    assert [r["contender"] for r in rows[1:]] == [*OURS, "published", "copy"]
    assert all(float(r["milliseconds"]) < 123456 for r in rows[1:])
    assert [p.name for p in tmp_path.iterdir()] == ["results.csv"]


class Wrong(nn.Module):
    """EMAM with one wrong border element of the output, a wrong gradient of the input, or NaN."""

    def __init__(self, fault):
        super().__init__()
        self.layer, self.fault = EMAM(16, 4, backend="reference"), fault

    def forward(self, x):
        out = self.layer(x * 1.0001 - x.detach() * 0.0001 if self.fault == "gradient" else x)
        if self.fault == "output":
            out = out + nn.functional.pad(out.new_full((1, 1), 1e-4), (0, x.shape[3] - 1, x.shape[2] - 1, 0))
        return out * float("nan") if self.fault == "nan" else out


@pytest.mark.parametrize("fault", ["output", "gradient", "nan"])
def test_a_contender_that_fails_the_gate_gets_no_row(tmp_path, monkeypatch, capsys, fault):
    wrong = Contender("collapsed", lambda case: Wrong(fault))
    monkeypatch.setitem(CONTENDERS, "emam", [CONTENDERS["emam"][0], wrong])
    code, out = measure(tmp_path, "--layer", "emam", "--shape", "2,16,5,4,4", "--pass", "training")
    printed = capsys.readouterr()
    assert code == 1
    assert [r["contender"] for r in rows_of(out)] == ["reference", "copy"]
    assert "collapsed: refused, " + ("gradient of input" if fault == "gradient" else "output") in printed.out
    assert printed.err == "error: 1 rows refused\n"


class CompilerError(Exception):
    """Like Triton's errors, not a RuntimeError."""


@pytest.mark.parametrize("error", [RuntimeError, CompilerError])
def test_a_contender_that_cannot_run_is_refused_in_one_line(tmp_path, monkeypatch, capsys, error):
    def broken(case):
        raise error("no such device\nand a traceback")

    monkeypatch.setitem(CONTENDERS, "emam", [*CONTENDERS["emam"], Contender("broken", broken)])
    code, out = measure(tmp_path, "--layer", "emam", "--shape", "2,16,5,4,4", "--pass", "forward")
    assert code == 1
    assert "broken: failed, no such device\n" in capsys.readouterr().out
    assert [r["contender"] for r in rows_of(out)] == [*OURS, "published", "copy"]


def test_a_reference_that_cannot_run_is_refused_in_one_line(tmp_path, capsys):
    code, out = measure(tmp_path, "--layer", "cbam", "--shape", "1,8,1,1,8", "--pass", "training")
    printed = capsys.readouterr()
    assert code == 1 and rows_of(out) == []
    assert "reference: failed, Expected more than 1 value per channel when training" in printed.out
    assert printed.err == "error: 1 rows refused\n"


@pytest.mark.parametrize("layer", LAYERS[:4])
@pytest.mark.parametrize("shape", [(4, 8, 1, 2), (3, 32, 1, 7), (2, 24, 9, 2)])
def test_every_contender_passes_the_gate_on_odd_shapes(layer, shape):
    case = Case(layer, shape, 8)
    for pass_ in PASSES:
        gate = Gate(case, pass_)
        for contender in contenders(layer):
            assert gate.judge(contender).fault == ""


@pytest.mark.parametrize("shape", [(2, 64, 3, 3), (2, 3, 8, 9), (1, 1, 1, 1)])
def test_maxima_of_scam_inputs_are_clear(shape):
    x = clear_maxima(shape).flatten(2)
    for dim in (1, 2):
        if x.shape[dim] > 1:
            largest = x.topk(2, dim).values
            assert (largest.select(dim, 0) >= 1.5 * largest.select(dim, 1)).all()


def test_resume_skips_what_this_commit_has_measured(tmp_path, monkeypatch, capsys):
    here = results_file.provenance("cpu")
    for commit, again in (("abc1234", False), ("abc1234+", True)):
        monkeypatch.setattr(results_file, "provenance", lambda device, commit=commit: here | {"commit": commit})
        for number in range(2):
            capsys.readouterr()
            code, out = measure(tmp_path, "--layer", "emam", "--shape", "2,16,5,4,4", "--pass", "forward", "--resume")
            assert code == 0 and len(rows_of(out)) == len(OURS) + 2
            assert bool(capsys.readouterr().out) == (number == 0 or again)
    monkeypatch.setattr(results_file, "provenance", lambda device: here | {"commit": "abc1234+", "torch": "0"})
    measure(tmp_path, "--layer", "emam", "--shape", "2,16,5,4,4", "--pass", "forward", "--resume")
    assert {row["torch"] for row in rows_of(out)} == {"0"}


def test_out_of_time_reports_how_many_inputs_are_left(tmp_path, monkeypatch, capsys):
    ticks = iter([0.0, 10.0, 70.0, 80.0, 90.0])
    monkeypatch.setattr(run, "monotonic", lambda: next(ticks))
    code, out = measure(tmp_path, "--layer", "emam", "--shape", "2,16,5,4,4", "1,16,5,4,4", "--minutes", "1")
    assert code == 1 and len(rows_of(out)) == len(OURS) + 2
    assert capsys.readouterr().err == "error: out of time with 3 inputs left; measure them with --resume\n"


def test_a_csv_file_of_something_else_is_not_overwritten(tmp_path, capsys):
    out = tmp_path / "results.csv"
    out.write_text("name,price\napple,1\n")
    assert measure(tmp_path, "--layer", "emam", "--shape", "2,16,5,4,4")[0] == 1
    assert out.read_text() == "name,price\napple,1\n"
    assert str(out) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--layer", "nothing"], "nothing"),
        (["--shape", "1,2,3"], "B,C,H,W,G, got '1,2,3'"),
        (["--shape", "1,-8,3,3,2"], "'1,-8,3,3,2'"),
        (["--layer", "emam", "--shape", "1,9,3,3,8"], "1,9,3,3,8: EMAM's groups G must divide"),
        (["--layer", "emam-scam", "--shape", "1,9,3,3,8"], "1,9,3,3,8: EMAM's groups G must divide"),
        (["--layer", "detector", "--shape", "1,3,32,32,8"], "at least 64"),
        (["--backends", "warp"], "'warp' is not a contender of these layers; choose from reference, collapsed"),
        (["--rounds", "0"], "wanted a positive number, got '0'"),
        (["--threads", "two"], "'two'"),
        (["--dtype", "int8"], "int8"),
        (["--graph"], "--graph: needs --device cuda"),
        (["--suite", "gpu"], "--suite gpu: needs --device cuda"),
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
