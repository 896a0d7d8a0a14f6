"""The collapsed backend against the reference: outputs, every gradient, running statistics, in float64 to 1e-10."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from panet_layers.ops import chunks
from tests.layers.cases import (
    CASES,
    DEFAULT_CHUNKS,
    EMAM_CASES,
    HAND_WRITTEN,
    SCAM_CASES,
    SMALL,
    SMALL_CHUNKS,
    ScamCase,
    assert_same,
    chunks_of,
    poisoned_memory,
    run,
    tensors,
    with_backend,
)
from tests.layers.inputs import LAYOUTS, VALUES, emam_cases, scam_cases

pytestmark = pytest.mark.usefixtures("by_hand_at_any_size")


def assert_parity(case, layer, x, grad, chunk_bytes=DEFAULT_CHUNKS):
    expected = run(with_backend(layer, "reference"), x, grad)
    with chunks_of(chunk_bytes), poisoned_memory():
        actual = run(with_backend(layer, "collapsed"), x, grad)
    assert_same(actual, expected)


@pytest.mark.parametrize("chunk_bytes", [*SMALL_CHUNKS, DEFAULT_CHUNKS])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_parity_on_the_table(case, chunk_bytes):
    assert_parity(case, case.layer(), *tensors(case), chunk_bytes)


def test_small_chunks_cut_samples_and_groups():
    case = EMAM_CASES[1]
    x, _ = tensors(case)
    counts = []
    for size in (*SMALL_CHUNKS, DEFAULT_CHUNKS):
        with chunks_of(size):
            counts.append(len(chunks.cut(x, case.groups)))
    every_instance, some_groups, some_samples, whole = counts
    assert every_instance == case.batch * case.groups
    assert every_instance > some_groups > case.batch > some_samples > whole == 1


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", [EMAM_CASES[0], EMAM_CASES[3], SCAM_CASES[1], SCAM_CASES[3]], ids=str)
@pytest.mark.parametrize("chunk_bytes", [1, DEFAULT_CHUNKS])
def test_parity_in_every_layout(case, layout, chunk_bytes):
    x, grad = map(LAYOUTS[layout], tensors(case))
    assert x.shape == grad.shape == (case.batch, case.channels, case.height, case.width)
    assert_parity(case, case.layer(), x, grad, chunk_bytes)


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("case", [EMAM_CASES[0], *SCAM_CASES[:3]], ids=str)
def test_parity_on_special_values(case, values):
    x, grad = tensors(case)
    assert_parity(case, case.layer(), VALUES[values](x), grad)


@pytest.mark.parametrize("backend", ["reference", "collapsed"])
def test_the_lowest_index_wins_a_tie(backend):
    """With closed gates (all weights 0), the gradient of a maximum reaches one element only: the first."""
    case = ScamCase(1, 3, 1, 2, 2, kernel_size=1)
    layer = with_backend(case.layer(), backend)
    with torch.no_grad():
        layer.channel.fc1.weight.zero_()
        layer.channel.fc2.weight.zero_()
        layer.spatial.conv.weight.copy_(torch.tensor([0.0, 1.0]).view(1, 2, 1, 1))
    x = torch.ones(1, 3, 2, 2, dtype=torch.float64)
    x[0, 0, 0, 0] = 0  # so that channel 1 is the first maximum there, channel 0 elsewhere

    through_the_map = run(layer, x, torch.ones_like(x))["grad x"][0]

    gate = torch.sigmoid(torch.tensor(0.5, dtype=torch.float64))
    plain, extra = gate / 2, gate * (1 - gate) / 2 * 1.5
    expected = plain.expand(3, 2, 2).clone()
    expected[0] += extra
    expected[0, 0, 0] = plain
    expected[1, 0, 0] += gate * (1 - gate) / 2 * 1.0
    assert_same({"grad x": through_the_map}, {"grad x": expected})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")], ids=str)
@pytest.mark.parametrize("case", [EMAM_CASES[1], *SCAM_CASES[:3]], ids=str)
def test_non_finite_input_spreads_alike(case, value):
    x, grad = tensors(case)
    x[0, 1, 2, 3] = value
    layer = case.layer()

    expected = run(with_backend(layer, "reference"), x, grad)
    actual = run(with_backend(layer, "collapsed"), x, grad)

    assert not expected["output"].isfinite().all()
    for name, tensor in expected.items():
        assert torch.equal(actual[name].isfinite(), tensor.isfinite()), name
    finite = {name: tensor.nan_to_num(0, 0, 0) for name, tensor in expected.items()}
    assert_same({name: tensor.nan_to_num(0, 0, 0) for name, tensor in actual.items()}, finite)


@pytest.mark.parametrize("offset", [10, float("nan")], ids=str)
@pytest.mark.parametrize("case", [EMAM_CASES[5], EMAM_CASES[6], EMAM_CASES[8]], ids=str)
@pytest.mark.parametrize("backend", HAND_WRITTEN)
def test_taps_that_only_read_padding_have_no_gradient(case, offset, backend):
    """In maps of one row or column: not even a rounding, or NaN."""
    x, grad = tensors(case, dtype=torch.float32)
    gradient = run(with_backend(case.layer(dtype=torch.float32), backend), x + offset, grad)["grad conv3x3.weight"]
    unread = torch.zeros(3, 3, dtype=torch.bool)
    if case.height == 1:
        unread[::2] = True
    if case.width == 1:
        unread[:, ::2] = True
    assert (gradient[..., unread] == 0).all() and (gradient[..., ~unread] != 0).any()


@pytest.mark.parametrize("case", SMALL, ids=str)
@pytest.mark.parametrize("backend", ["reference", "collapsed"])
def test_three_runs_are_equal_bit_for_bit(case, backend):
    layer = with_backend(case.layer(dtype=torch.float32), backend)
    case = case._replace(batch=4, height=33, width=40)
    with chunks_of(20_000):
        first, second, third = (run(with_backend(layer, backend), *tensors(case, dtype=torch.float32)) for _ in "123")
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]) and torch.equal(tensor, third[name]), name


chunk_sizes = st.sampled_from([*SMALL_CHUNKS, DEFAULT_CHUNKS])
layouts, values, seeds = st.sampled_from(sorted(LAYOUTS)), st.sampled_from(sorted(VALUES)), st.integers(0, 2**16)


def assert_drawn_parity(case, layout, value, seed, chunk_bytes):
    x, grad = tensors(case, seed)
    x = VALUES[value](x)
    if case.batch:
        x, grad = LAYOUTS[layout](x), LAYOUTS[layout](grad)
    assert_parity(case, case.layer(seed), x, grad, chunk_bytes)


@settings(max_examples=200)
@given(emam_cases(), layouts, values, seeds, chunk_sizes)
def test_emam_parity_on_drawn_cases(case, layout, value, seed, chunk_bytes):
    assert_drawn_parity(case, layout, value, seed, chunk_bytes)


@settings(max_examples=200)
@given(scam_cases(), layouts, values, seeds, chunk_sizes)
def test_scam_parity_on_drawn_cases(case, layout, value, seed, chunk_bytes):
    assert_drawn_parity(case, layout, value, seed, chunk_bytes)
