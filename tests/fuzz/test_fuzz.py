"""Layers on drawn examples: any shape, layout, dtype and value, forward and backward.

A share of the examples runs, or all of them with `--fuzz 1`: see CONTRIBUTING.md. What failed once always runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import NamedTuple

import pytest
import torch
from hypothesis import Phase, given, seed, settings

from panet_layers.ops.native import library
from tests.devices import on_cpu, on_gpu, on_interpreter
from tests.fuzz.drawn import FLOATS, Example, emam_cases, examples, scam_cases
from tests.fuzz.judging import judge
from tests.fuzz.rounding import Range
from tests.layers.cases import EmamCase, ScamCase

# Numpy's, from Triton's interpreter, where inputs are not finite.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

COMPILED = pytest.mark.skipif(library.why_not() is not None, reason="no compiled kernels")


class Fuzzed(NamedTuple):
    """How a backend is fuzzed."""

    backend: str
    examples: int  # of both layers together
    parts: int  # tests that share the examples of a layer, for several processes
    dtypes: tuple[str, ...]
    longest: int  # side of a map, and number of channels
    device: Callable[[], torch.device] = on_cpu


FUZZED = {
    "collapsed": Fuzzed("collapsed", 10_000, 10, tuple(FLOATS), 40),
    "native": Fuzzed("native", 10_000, 10, tuple(FLOATS), 40),
    # Triton's interpreter truncates to bfloat16, where a GPU rounds.
    "interpreted": Fuzzed("triton", 200, 2, ("float64", "float32", "float16"), 12, on_interpreter),
    "compiled": Fuzzed("triton", 30, 1, tuple(FLOATS), 40, on_gpu),
}
LAYERS = {"EMAM": emam_cases, "SCAM": scam_cases}

UNLIKE = 10  # in a run; from then on hypothesis draws five variations of each example

# What failed once, as it was printed.
FOUND = [
    # A rounding as the gradient of taps that only read padding.
    Example(
        EmamCase(batch=4, channels=6, groups=3, height=21, width=1),
        dtype="float32",
        parameter_dtype="float32",
        values="offset",
        exponent=0,
        grad_values="constant",
        grad_exponent=2,
        weights="tiny",
        layout="transposed",
        grad_layout="expanded from one",
        trained="parameters",
        chunk_bytes=20000,
        small_bytes=1048576,
        formulas=False,
        seed=65536,
    ),
    # A gradient that is a sum of equal terms, zero but for their roundings: over a budget for roundings that differ.
    Example(
        EmamCase(batch=3, channels=18, groups=1, height=7, width=1),
        dtype="bfloat16",
        parameter_dtype="float32",
        values="-inf",
        exponent=0,
        grad_values="constant",
        grad_exponent=30,
        weights="matched",
        layout="expanded from one",
        grad_layout="contiguous",
        trained="parameters",
        chunk_bytes=1,
        small_bytes=1048576,
        formulas=False,
        seed=65536,
    ),
    # A variance that overflowed float16 before the momentum made it small.
    Example(
        ScamCase(
            batch=3,
            channels=3,
            reduction=4,
            height=11,
            width=11,
            kernel_size=3,
            mlp_bias=True,
            norm="batch",
            training=True,
        ),
        dtype="bfloat16",
        parameter_dtype="float16",
        values="offset",
        exponent=0,
        grad_values="zero",
        grad_exponent=-10,
        weights="normal",
        layout="odd offset",
        grad_layout="odd offset",
        trained="some",
        chunk_bytes=16777216,
        small_bytes=1048576,
        formulas=False,
        seed=3351,
    ),
    # In float64 the answer errs as well, here by three times as much as the compiled kernels do.
    Example(
        EmamCase(batch=2, channels=30, groups=1, height=1, width=6),
        dtype="float64",
        parameter_dtype="float64",
        values="offset",
        exponent=-4,
        grad_values="offset",
        grad_exponent=0,
        weights="matched",
        layout="channels_last",
        grad_layout="expanded from one",
        trained="parameters",
        chunk_bytes=20000,
        small_bytes=1048576,
        formulas=False,
        seed=37419,
    ),
]


def parts() -> Iterator:
    """The name in the table, the layer and the number of each test."""
    for name, fuzzed in FUZZED.items():
        marks = [pytest.mark.slow, pytest.mark.cuda] if fuzzed.device is on_gpu else [pytest.mark.slow]
        for layer, part in product(LAYERS, range(fuzzed.parts)):
            yield pytest.param(name, layer, part, marks=marks, id=f"{name}-{layer}-{part}")


@pytest.mark.parametrize(("name", "layer", "part"), list(parts()))
def test_drawn_examples(name, layer, part, pytestconfig, record_property):
    fuzzed = FUZZED[name]
    device, number = fuzzed.device(), pytestconfig.getoption("--fuzz-seed") * 100 + part
    wanted = max(1, round(fuzzed.examples * pytestconfig.getoption("--fuzz") / len(LAYERS) / fuzzed.parts))
    judged = []

    def check(example):
        judged.append(None)
        judged[-1] = judge(example, fuzzed.backend, device)

    options = {"derandomize": False, "database": None, "print_blob": False, "phases": [Phase.generate, Phase.shrink]}
    given_examples = given(examples(LAYERS[layer](fuzzed.longest), fuzzed.dtypes))
    try:
        for start in range(0, wanted, UNLIKE):
            run = settings(max_examples=min(UNLIKE, wanted - start), **options)(given_examples(check))
            seed(number * 100_000 + start)(run)()
    finally:
        beyond = f", {judged.count(False)} of them not judged by value" if judged.count(False) else ""
        record_property("fuzz", f"{name}, {layer}, seed {number}: {len(judged)} examples{beyond}")
    assert len(judged) >= wanted


@pytest.mark.parametrize(("score", "left"), [(-80.0, False), (-88.0, True), (-800.0, False)])
def test_a_sigmoid_below_the_smallest_normal_number_leaves_the_range(score, left):
    """Where float64's is zero too, so must that of a layer be."""
    with Range(torch.float32) as seen:
        torch.tensor([score], dtype=torch.float64).sigmoid()
    assert seen.left == left


@pytest.mark.parametrize("backend", ["collapsed", pytest.param("native", marks=COMPILED)])
@pytest.mark.parametrize("example", FOUND, ids=lambda example: f"{example.case},{example.dtype},{example.values}")
def test_examples_that_failed_once(example, backend):
    judge(example, backend, on_cpu())
