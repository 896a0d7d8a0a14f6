"""The collapsed backend against the reference: outputs, every gradient, running statistics, in float64 to 1e-10."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from panet_layers.ops import chunks
from tests.layers.cases import (
    CASES,
    DEFAULT_PIECES,
    EMAM_CASES,
    SCAM_CASES,
    SMALL,
    SMALL_PIECES,
    EmamCase,
    ScamCase,
    assert_same,
    pieces_of,
    poisoned_memory,
    run,
    tensors,
    with_backend,
)

pytestmark = pytest.mark.usefixtures("by_hand_at_any_size")

# Ways an input of a given shape can lie in memory.
LAYOUTS = {
    "contiguous": lambda x: x.contiguous(),
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "strided": lambda x: x.repeat_interleave(2, 3).repeat_interleave(2, 1)[:, ::2, :, ::2],
    "slice": lambda x: torch.nn.functional.pad(x, (1, 2, 3, 1, 2, 1, 1, 0))[1:, 2:-1, 3:-1, 1:-2],
    "expanded": lambda x: x[:, :, :, :1].expand(x.shape),
    "expanded_batch": lambda x: x[:1].expand(x.shape),
    "permuted": lambda x: x.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1),
    "transposed": lambda x: x.mT.contiguous().mT,
}

# Inputs on which something special happens: ties for the maxima, zeros, magnitudes far from 1.
VALUES = {
    "normal": lambda x: x,
    "rounded": lambda x: x.round(),
    "relu": lambda x: x.round().relu(),
    "constant": lambda x: torch.full_like(x, 0.75),
    "zero": torch.zeros_like,
    "offset": lambda x: x + 10,
    "small": lambda x: x * 1e-3,
}


def assert_parity(case, layer, x, grad, piece_bytes=DEFAULT_PIECES):
    expected = run(with_backend(layer, "reference"), x, grad)
    with pieces_of(piece_bytes), poisoned_memory():
        actual = run(with_backend(layer, "collapsed"), x, grad)
    assert_same(actual, expected)


@pytest.mark.parametrize("piece_bytes", [*SMALL_PIECES, DEFAULT_PIECES])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_parity_on_the_table(case, piece_bytes):
    assert_parity(case, case.layer(), *tensors(case), piece_bytes)


def test_small_pieces_cut_samples_and_groups():
    case = EMAM_CASES[1]
    x, _ = tensors(case)
    counts = []
    for size in (*SMALL_PIECES, DEFAULT_PIECES):
        with pieces_of(size):
            counts.append(len(chunks.pieces(x, case.groups)))
    every_instance, some_groups, some_samples, whole = counts
    assert every_instance == case.batch * case.groups
    assert every_instance > some_groups > case.batch > some_samples > whole == 1


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", [EMAM_CASES[0], EMAM_CASES[3], SCAM_CASES[1], SCAM_CASES[3]], ids=str)
@pytest.mark.parametrize("piece_bytes", [1, DEFAULT_PIECES])
def test_parity_in_every_layout(case, layout, piece_bytes):
    x, grad = map(LAYOUTS[layout], tensors(case))
    assert x.shape == grad.shape == (case.batch, case.channels, case.height, case.width)
    assert_parity(case, case.layer(), x, grad, piece_bytes)


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("case", [EMAM_CASES[0], *SCAM_CASES[:3]], ids=str)
def test_parity_on_special_values(case, values):
    x, grad = tensors(case)
    assert_parity(case, case.layer(), VALUES[values](x), grad)


@pytest.mark.parametrize("backend", ["reference", "collapsed"])
def test_the_lowest_index_wins_a_tie(backend):
    """With closed gates (all weights 0), the gradient of a maximum reaches one element alone: the first."""
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


@pytest.mark.parametrize("case", SMALL, ids=str)
@pytest.mark.parametrize("backend", ["reference", "collapsed"])
def test_three_runs_are_equal_bit_for_bit(case, backend):
    layer = with_backend(case.layer(dtype=torch.float32), backend)
    case = case._replace(batch=4, height=33, width=40)
    with pieces_of(20_000):
        first, second, third = (run(with_backend(layer, backend), *tensors(case, dtype=torch.float32)) for _ in "123")
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]) and torch.equal(tensor, third[name]), name


sizes = st.integers(1, 12)
piece_sizes = st.sampled_from([*SMALL_PIECES, DEFAULT_PIECES])
layouts, values, seeds = st.sampled_from(sorted(LAYOUTS)), st.sampled_from(sorted(VALUES)), st.integers(0, 2**16)


@st.composite
def emam_cases(draw):
    groups = draw(st.integers(1, 8))
    return EmamCase(draw(st.integers(0, 4)), groups * draw(st.integers(1, 5)), groups, draw(sizes), draw(sizes))


@st.composite
def scam_cases(draw):
    case = ScamCase(
        batch=draw(st.integers(0, 4)),
        channels=draw(st.integers(1, 24)),
        reduction=draw(st.integers(1, 16)),
        height=draw(sizes),
        width=draw(sizes),
        kernel_size=draw(st.sampled_from([1, 3, 5, 7])),
        mlp_bias=draw(st.booleans()),
        norm=draw(st.sampled_from([None, "batch"])),
        training=draw(st.booleans()),
    )
    one_pixel = case.batch * case.height * case.width == 1
    return case._replace(training=case.training and not one_pixel)


def assert_drawn_parity(case, layout, value, seed, piece_bytes):
    x, grad = tensors(case, seed)
    x = VALUES[value](x)
    if case.batch:
        x, grad = LAYOUTS[layout](x), LAYOUTS[layout](grad)
    assert_parity(case, case.layer(seed), x, grad, piece_bytes)


@settings(max_examples=200)
@given(emam_cases(), layouts, values, seeds, piece_sizes)
def test_emam_parity_on_drawn_cases(case, layout, value, seed, piece_bytes):
    assert_drawn_parity(case, layout, value, seed, piece_bytes)


@settings(max_examples=200)
@given(scam_cases(), layouts, values, seeds, piece_sizes)
def test_scam_parity_on_drawn_cases(case, layout, value, seed, piece_bytes):
    assert_drawn_parity(case, layout, value, seed, piece_bytes)
