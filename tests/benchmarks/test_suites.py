"""What benchmarks/run.py --list prints: the suite for a GPU, contenders, batches, dtypes, layouts."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch

from benchmarks import cases, run
from benchmarks.cases import Variants
from benchmarks.contenders import contenders
from panet_layers.measuring.cases import DTYPES, LAYOUTS
from tests.benchmarks.small_benchmarks import OURS, measure


@pytest.fixture
def a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


def test_suite_for_a_gpu(a_gpu, capsys):
    assert run.main(["--device", "cuda", "--suite", "gpu", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {}  # input -> its contenders, from every grid of the suite
    for line in lines:
        case, _, names = line.split(": ")
        rows.setdefault(case, set()).update(names.split(", "))
    usual = {"reference", "collapsed", "triton", "reference+graph", "collapsed+graph", "triton+graph", "copy"}
    of_layer = {"emam": {"published", "published+graph"}, "scam": set(), "cbam": {"timm", "timm+graph"}}
    compiled = {"reference+compile", "collapsed+compile", "reference+compile+graph", "collapsed+compile+graph"}
    for (layer, own), dtype, layout, shape in product(of_layer.items(), DTYPES, LAYOUTS, cases.GPU_SHAPES):
        groups = f" G={shape[4]}" if layer == "emam" else ""
        found = rows[f"{layer} {'x'.join(map(str, shape[:4]))}{groups} {dtype} {layout}"]
        assert usual | own <= found
        assert ({"cuda", "cuda+graph"} <= found) == (layer == "emam" and layout == "contiguous")
        if layer != "scam" and (dtype, layout) == ("bfloat16", "contiguous"):
            assert compiled <= found
    for batch, layer in product((8, 32, 128, 256), ("emam", "cbam")):
        assert usual <= rows[f"{layer} {batch}x728x19x19{' G=8' * (layer == 'emam')} bfloat16 contiguous"]
    autotuned = [line.split()[0] for line in lines if "reference+max-autotune, " in line]
    assert autotuned == ["emam", "cbam"]


def test_suite_begins_with_the_most_important_rows(a_gpu, capsys):
    """In bfloat16: every shape, eager and in a graph; then the compilers; then one layer after the other."""
    run.main(["--device", "cuda", "--suite", "gpu", "--list"])
    lines = capsys.readouterr().out.splitlines()
    shapes = len(cases.GPU_SHAPES)
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
    for layer in cases.LAYERS:
        assert "triton" not in [c.name for c in contenders(layer, "cpu", Variants(True, True))]
        assert "triton" in [c.name for c in contenders(layer, "cuda")]


def test_list_measures_nothing(tmp_path, capsys):
    code, out = measure(tmp_path, "--list", "--compile", "--layer", "cbam", "--shape", "2,16,5,4,4")
    assert code == 0 and not out.exists()
    assert capsys.readouterr().out == (
        "cbam 2x16x5x4 float32 contiguous: forward, training: "
        f"{', '.join(OURS)}, timm, published, reference+compile, collapsed+compile, copy\n"
    )


def test_backends_selects_contenders_in_addition_to_the_reference(tmp_path, capsys):
    measure(tmp_path, "--list", "--backends", "timm", "--layer", "cbam", "--shape", "2,16,5,4,4")
    assert capsys.readouterr().out.endswith("reference, timm, copy\n")


def test_suite_of_growing_maps(capsys):
    """Twice as many elements from one map to the next, from 2^12 to 2^27; no training step of the largest."""
    assert run.main(["--suite", "growth", "--backends", "native", "--list"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("emam ")]
    sizes = {math.prod(map(int, line.split()[1].split("x"))): "training" in line for line in lines}
    assert sorted(sizes) == [2**n for n in range(12, 28)]
    assert all(training == (size <= cases.MOST_IN_TRAINING) for size, training in sizes.items())
