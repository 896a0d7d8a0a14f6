"""`python -m panet_layers.certify`: one JSON object, a result for each backend, exit code 1 for a broken bound."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks import certificates
from panet_layers import available_backends, certify
from panet_layers.measuring import certificate, gate
from panet_layers.measuring.cases import BUILDERS, Case

HERE = [name for name in certify.BACKENDS["cpu"] if available_backends()[name] is None]


@pytest.fixture(autouse=True)
def one_small_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certify, "QUICK_SHAPES", ((2, 8, 5, 4, 4),))
    monkeypatch.setattr(certify, "QUICK_DTYPES", ("float32",))
    monkeypatch.setattr(certify, "QUICK_ROUNDS", 1)
    monkeypatch.setattr(gate, "DRAWS", 4)


def strictly(text: str) -> dict[str, Any]:
    """Read JSON, of which Infinity and NaN are no part."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(name))


class Wrapped(nn.Module):
    """A layer whose output a function changes."""

    def __init__(self, layer: nn.Module, change: Any) -> None:
        super().__init__()
        self.layer, self.change = layer, change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.layer(x))


def spoil(monkeypatch: pytest.MonkeyPatch, backend: str, change: Any) -> None:
    """Change what one backend of EMAM computes."""

    def build(name: str, case: Case, right: Any = BUILDERS["emam"]) -> nn.Module:
        return Wrapped(right(name, case), change) if name == backend else right(name, case)

    monkeypatch.setitem(BUILDERS, "emam", build)


def faults(certificate: dict[str, Any]) -> dict[tuple[str, str], str]:
    return {(r["layer"], r["backend"]): r["fault"] for r in certificate["results"] if r["fault"]}


def test_the_certificate_is_printed_and_written(tmp_path, capsys):
    out = tmp_path / "here.json"
    assert certify.main(["--quick", "--device", "cpu", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert printed == out.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["here.json"]
    certificate = strictly(printed)
    assert certificate["ok"] and certificate["quick"]
    assert certificate["device"]["kind"] == "cpu" and certificate["device"]["name"]
    assert certificate["versions"]["torch"] == torch.__version__.split("+")[0]
    keys = [(r["layer"], r["layout"], r["backend"]) for r in certificate["results"]]
    layouts = ("contiguous", "channels_last")
    assert keys == [(layer, layout, name) for layer in ("emam", "scam", "cbam") for layout in layouts for name in HERE]
    for result in certificate["results"]:
        assert result["fault"] == "" and result["shape"] == "2x8x5x4" and result["dtype"] == "float32"
        for pass_ in ("forward", "training"):
            measured = result[pass_]
            assert 0 <= measured["relative_error"] < 1e-4 and measured["milliseconds"] > 0
            assert (
                measured["times_copy"] > 0
                and 0 <= measured["of_bound"] <= 1
                and measured["units"] == max(measured["units_of"].values())
            )
        assert result["training"]["kept_bytes"] > 0
        assert "gradient of input" in result["training"]["units_of"] and len(result["training"]["units_of"]) > 4
        assert list(result["forward"]["units_of"]) == ["output"]
        if result["backend"] == "reference":
            assert result["training"]["units"] <= 1
        if result["backend"] == "native":
            assert result["repeatable"] is True


def test_a_wrong_backend_is_named_and_the_others_are_examined(monkeypatch, capsys):
    spoil(monkeypatch, "collapsed", lambda out: out * 1.001)
    assert certify.main(["--quick", "--device", "cpu"]) == 1
    said = capsys.readouterr()
    certificate = strictly(said.out)
    assert not certificate["ok"]
    fault = faults(certificate)
    assert list(fault) == [("emam", "collapsed")]
    assert fault["emam", "collapsed"].startswith("output differs from the float64 answer by 0.00")
    assert "collapsed FAULT: output differs" in said.err


def test_a_backend_that_fails_is_a_fault_with_its_reason(monkeypatch):
    def fail(out: Tensor) -> Tensor:
        raise RuntimeError("no such kernel\nmore")

    spoil(monkeypatch, "collapsed", fail)
    assert faults(certify.certify("cpu", quick=True)) == {("emam", "collapsed"): "failed, RuntimeError: no such kernel"}


def test_a_failure_while_times_are_measured_loses_no_other_result(monkeypatch):
    calls = iter(range(10**6))
    right = certificate.timing.measure

    def measure(*arguments: Any) -> Any:
        if next(calls) == 0:
            raise MemoryError("out of memory")
        return right(*arguments)

    monkeypatch.setattr(certificate.timing, "measure", measure)
    results = certify.certify("cpu", quick=True)["results"]
    faults_of = [result["fault"] for result in results]
    assert faults_of[: len(HERE)] == ["failed, MemoryError: out of memory"] * len(HERE)
    assert set(faults_of[len(HERE) :]) == {""}


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_an_infinite_error_is_null(monkeypatch, capsys, wrong):
    spoil(monkeypatch, "collapsed", lambda out: out * wrong)
    assert certify.main(["--quick", "--device", "cpu"]) == 1
    result = next(r for r in strictly(capsys.readouterr().out)["results"] if r["backend"] == "collapsed")
    assert result["forward"]["units"] is None and result["forward"]["relative_error"] is None


@pytest.mark.skipif("native" not in HERE, reason="needs the compiled kernels")
def test_kernels_that_do_not_repeat_are_a_fault(monkeypatch):
    calls = iter(range(10**6))
    spoil(monkeypatch, "native", lambda out: out * (1 + (next(calls) % 2) * 2**-22))
    assert faults(certify.certify("cpu", quick=True)) == {("emam", "native"): "5 calls with the same numbers differ"}


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["--out", "."], "--out: . is not a file in an existing folder"),
        (["--out", "missing/here.json"], "--out: missing/here.json is not a file in an existing folder"),
        (["--device", "tpu"], "invalid choice: 'tpu'"),
    ],
)
def test_bad_arguments_are_named(arguments, fault, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        certify.main(arguments)
    assert exit_.value.code == 2 and fault in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_named(capsys):
    with pytest.raises(SystemExit):
        certify.main(["--device", "cuda"])
    assert "argument --device: torch finds no GPU here; use cpu" in capsys.readouterr().err


def test_a_certificate_that_cannot_be_written_is_printed_all_the_same(tmp_path, monkeypatch, capsys):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert certify.main(["--quick", "--device", "cpu", "--out", str(tmp_path / "here.json")]) == 1
    said = capsys.readouterr()
    assert strictly(said.out)["ok"] and said.err.endswith("here.json: No space left on device\n")
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_writes_nothing(tmp_path, monkeypatch, capsys):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(certify, "examine", interrupt)
    assert certify.main(["--quick", "--device", "cpu", "--out", str(tmp_path / "here.json")]) == 130
    assert capsys.readouterr() == ("", "interrupted; no certificate written\n")
    assert list(tmp_path.iterdir()) == []


def test_the_whole_list_has_every_dtype_and_the_shapes_of_the_quick_one():
    found, quick = (list(certify.cases("cpu", chosen)) for chosen in (False, True))
    assert {case.dtype for case in found} == {"float32", "bfloat16", "float16"}
    assert len(found) == len(set(found)) == 3 * len(certify.SHAPES) * 3 * 2
    assert {case.layer for case in quick} == set(BUILDERS)


def test_an_error_that_is_small_by_chance_on_one_draw_only_is_no_bound():
    """A contender whose error is that of the formulas passes, although they are nearly exact on the first draw."""
    errors = {"formulas": lambda seed: 1e-9 if seed == gate.SEED else 1e-5, "same": lambda seed: 1e-5}

    def run(name: str, dtype: torch.dtype, seed: int) -> gate.Results:
        exact = torch.ones(1, dtype=torch.float64)
        return {"output": exact if dtype == torch.float64 else exact + errors[name](seed)}

    assert gate.Gate(run).judge("same", "formulas", torch.float32).fault == ""
    errors["same"] = lambda seed: 3e-5
    verdict = gate.Gate(run).judge("same", "formulas", torch.float32)
    assert verdict.fault == "output differs from the float64 answer by 3e-05; 2.2e-05 is allowed"


def test_the_table_in_the_docs_is_that_of_the_certificates(capsys):
    assert certificates.main([]) == 0
    table = capsys.readouterr().out
    assert "| native |" in table
    assert table in (Path(certify.__file__).parents[1] / "docs/certificates.md").read_text(encoding="utf-8")


def test_a_broken_bound_stands_in_the_table(monkeypatch, capsys):
    spoil(monkeypatch, "collapsed", lambda out: out * 1.001)
    cells = [row[3:6] for row in certificates.rows(certify.certify("cpu", quick=True))]
    assert ("EMAM", "collapsed", "a bound broken in 2 of 2 cases") in cells
    assert ("EMAM", "reference") in [cell[:2] for cell in cells]


def test_what_is_no_certificate_is_named(tmp_path, capsys):
    (tmp_path / "x.json").write_text('{"results": [{}]}')
    assert certificates.main([str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/x.json is not what python -m panet_layers.certify")
