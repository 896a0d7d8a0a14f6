"""The benchmarks' commands with options that cannot be: one line that names the value, and nothing measured."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from benchmarks import certificates, gpu, insertion, known_answers, onnx_latency, report, run, starts
from panet_layers import certify

Main = Callable[[list[str]], int]

BAD_ARGUMENTS: list[tuple[Main, list[str], str]] = [
    (run.main, ["--layer", "ema"], "invalid choice: 'ema'"),
    (insertion.main, ["--network", "resnet18", "nope"], "has no model 'nope'"),
    (insertion.main, ["--device", "cuda"], "torch finds no CUDA device here"),
    (gpu.main, ["--device", "cuda"], "torch finds no CUDA device here"),
    (onnx_latency.main, ["--size", "100"], "wanted a multiple of 32, got 100"),
    (known_answers.main, ["--seeds", "1"], "--seeds 1"),
    (certify.main, ["--device", "tpu"], "invalid choice: 'tpu'"),
    (certify.main, ["--out", ""], "--out: is empty: give a name"),
    (run.main, ["--out", ""], "--out: is empty: give a name"),
    (report.main, ["rows.csv", "--plot", ""], "--plot: is empty: give a name"),
]
MISSING: list[tuple[Main, list[str]]] = [
    (report.main, ["{}"]),
    (insertion.main, ["--table", "--out", "{}"]),
    (onnx_latency.main, ["--table", "--out", "{}"]),
    (known_answers.main, ["--table", "--out", "{}"]),
    (starts.main, ["--table", "--folder", "{}"]),
    (starts.main, ["--table", "--cost", "--folder", "{}"]),
    (certificates.main, ["{}"]),
]


@pytest.mark.parametrize(("main", "arguments", "said"), BAD_ARGUMENTS)
def test_bad_arguments_are_one_line(main, arguments, said, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    line = capsys.readouterr().err
    assert ended.value.code == 2 and line.startswith("error: ") and line.count("\n") == 1 and said in line


@pytest.mark.parametrize(("main", "arguments"), MISSING)
def test_results_that_do_not_exist_are_named(main, arguments, tmp_path, capsys):
    assert main([argument.format(tmp_path / "missing") for argument in arguments]) == 1
    line = capsys.readouterr().err
    assert line.startswith(f"error: {tmp_path / 'missing'}") and line.count("\n") == 1
    assert "there is no such file" in line or "is no folder" in line
