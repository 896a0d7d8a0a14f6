"""EMAM's Triton kernels against the reference: outputs and gradients in float64, error budgets in lower precision."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from tests.devices import on_interpreter
from tests.kernels import helpers
from tests.layers.cases import (
    EMAM_CASES,
    LOW_PRECISION,
    EmamCase,
    assert_one_compilation_serves,
    assert_same,
    poisoned_memory,
    run,
    tensors,
    with_backend,
)
from tests.layers.derivatives import as_function, double_backward, saved_tensors
from tests.layers.inputs import LAYOUTS, VALUES
from tests.layers.operators import opcheck
from tests.layers.published import GOLDEN, build, expected_outcome, load

SLOW = {0, 1, 2, 4, 11}  # in the interpreter
ON_GPUS = {0, 2, 5, 6, 8, 10, 11}
TABLE = [
    pytest.param(case, marks=[pytest.mark.slow] * (i in SLOW) + [pytest.mark.interpreted] * (i not in ON_GPUS))
    for i, case in enumerate(EMAM_CASES)
]
SMALL = EmamCase(2, 6, 2, 5, 4)


@pytest.mark.parametrize("case", TABLE, ids=str)
def test_parity(case, device):
    assert_same(*helpers.outcomes(case.layer(), *tensors(case), device))


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_parity_in_every_layout(layout, device):
    """Whatever the input's strides, the output has those of torch.empty_like."""
    x, grad = map(LAYOUTS[layout], tensors(SMALL))
    actual, expected = helpers.outcomes(SMALL.layer(), x, grad, device)
    assert_same(actual, expected)
    assert actual["output"].stride() == torch.empty_like(x).stride()


def test_gradient_of_another_layout(device):
    x, grad = tensors(SMALL)
    assert_same(*helpers.outcomes(SMALL.layer(), x, grad.contiguous(memory_format=torch.channels_last), device))
    assert_same(*helpers.outcomes(SMALL.layer(), x, grad.new_ones(()).expand(grad.shape), device))


@pytest.mark.parametrize("values", sorted(set(VALUES) - {"normal"}))
def test_parity_on_special_values(values, device):
    case = SMALL._replace(batch=1)
    x, grad = tensors(case)
    assert_same(*helpers.outcomes(case.layer(), VALUES[values](x), grad, device))


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
def test_non_finite_input_spreads_alike(value, device):
    x, grad = tensors(SMALL)
    x[0, 1, 2, 3] = value
    helpers.assert_non_finite_alike(*helpers.outcomes(SMALL.layer(), x, grad, device))


@pytest.mark.xdist_group("most of the GPU's memory")
def test_channels_far_apart(device):
    """Four channels 720 million numbers apart, in memory that is reserved and hardly touched."""
    case, apart = EmamCase(1, 4, 1, 5, 6), 720_000_000
    dense, grad = (t.to(device) for t in tensors(case, dtype=torch.float16))
    x = torch.empty(3 * apart + 30, dtype=torch.float16, device=device)
    x = x.as_strided((1, 4, 5, 6), (4 * apart, apart, 6, 1)).copy_(dense)
    layer = with_backend(case.layer(dtype=torch.float32), "triton").to(device)
    assert_same(run(layer, x, grad), run(layer, dense, grad), 0)


@pytest.mark.emulated
@pytest.mark.xdist_group("most of the GPU's memory")
def test_rows_far_apart(device):
    """Two rows 2^31 numbers apart, which a plane in channels_last may be too."""
    case = EmamCase(1, 8, 2, 2, 2)
    dense, grad = (t.to(device) for t in tensors(case, dtype=torch.float16))
    x = torch.empty(2**31 + 16, dtype=torch.float16, device=device).as_strided((1, 8, 2, 2), (16, 2, 2**31, 1))
    x.copy_(dense)
    layer = with_backend(case.layer(dtype=torch.float32), "triton").to(device)
    assert_same(run(layer, x, grad), run(layer, dense, grad), 0)


def test_maps_of_more_pixels_than_32_bits_count():
    on_interpreter()
    layer = with_backend(EmamCase(1, 8, 2, 1, 1).layer(dtype=torch.float32), "triton")
    with pytest.raises(ValueError, match=r"maps of less than 1908870256 pixels, got \(1, 8, 1, 1910000000\)"):
        layer(torch.empty(1).expand(1, 8, 1, 1_910_000_000))


@pytest.mark.interpreted
@settings(max_examples=5)
@given(
    groups=st.integers(1, 2),
    channels=st.integers(1, 3),
    sizes=st.tuples(st.integers(1, 2), st.integers(1, 9), st.integers(1, 9)),
    layout=st.sampled_from(["contiguous", "strided", "transposed"]),
    seed=st.integers(0, 99),
)
def test_parity_on_drawn_cases(groups, channels, sizes, layout, seed, device):
    case = EmamCase(sizes[0], groups * channels, groups, *sizes[1:])
    x, grad = (LAYOUTS[layout](t) for t in tensors(case, seed))
    assert_same(*helpers.outcomes(case.layer(seed), x, grad, device))


@pytest.mark.parametrize("shift", [0.0, 3.0], ids=["centred", "shifted"])
@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=str)
def test_error_budget(dtype, shift, device):
    helpers.skip_truncation(dtype, device)
    by_kernels = lambda layer, x, grad: run(with_backend(layer, "triton"), x, grad)  # noqa: E731
    helpers.check_budget(by_kernels, EmamCase(1, 6, 2, 9, 7), dtype, shift, draws=3, device=device)


def test_two_runs_are_equal_bit_for_bit(device):
    case = EmamCase(1, 4, 2, 18, 17)
    layer = with_backend(case.layer(dtype=torch.float32), "triton").to(device)
    x, grad = (t.to(device) for t in tensors(case, dtype=torch.float32))
    first, second = run(layer, x, grad), run(layer, x, grad)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_gradcheck(device):
    case = EmamCase(1, 4, 2, 3, 2)
    function, parameters = as_function(with_backend(case.layer(), "triton").to(device))
    x = tensors(case)[0].to(device).requires_grad_()
    assert gradcheck(function, (x, *parameters), check_undefined_grad=False, fast_mode=True)


def test_double_backward_takes_the_plain_form(device):
    x, grad = (t.to(device) for t in tensors(SMALL))
    layer = SMALL.layer().to(device)
    expected = double_backward(with_backend(layer, "reference"), x, grad)
    assert_same(double_backward(with_backend(layer, "triton"), x, grad), expected)


def test_only_the_input_and_small_statistics_are_saved(device):
    x = tensors(SMALL)[0].to(device).requires_grad_()
    layer = with_backend(SMALL.layer(), "triton").to(device)
    out, saved = saved_tensors(layer, x)
    known = {t.untyped_storage().data_ptr() for t in (x, *layer.parameters())}
    others = [t for t in saved if t.untyped_storage().data_ptr() not in known]
    batch, channels, height, width = x.shape
    assert sum(t.numel() for t in others) == batch * (channels * (2 * (height + width) + 3) + 2 * height * width)
    assert all(t.untyped_storage().data_ptr() != out.untyped_storage().data_ptr() for t in saved)


@pytest.mark.parametrize("path", [path for path in GOLDEN if "emam" in path.stem], ids=lambda path: path.stem)
def test_matches_the_published_module(path, device):
    stored, metadata = load(path)
    stored = {name: tensor.to(device) for name, tensor in stored.items()}
    layer = build(metadata, stored["x"].shape[1], "triton").to(device)
    layer.load_state_dict({key.removeprefix("param."): t for key, t in stored.items() if key.startswith("param.")})
    with poisoned_memory():
        outcome = run(layer, stored["x"], stored["grad_output"])
    assert_same(outcome, expected_outcome(stored))


@pytest.mark.slow
@pytest.mark.parametrize("case", [SMALL, EmamCase(0, 4, 2, 3, 3)], ids=str)
def test_opcheck(case, device):
    x, grad = (t.to(device) for t in tensors(case, dtype=torch.float32))
    opcheck(case, case.layer(dtype=torch.float32).to(device), x, grad, "_fused")


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_gradients_are_eagers_at_any_size(device):
    assert_one_compilation_serves([(2, 5, 4), (2, 3, 6), (2, 7, 2)], SMALL, "triton", device)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_parameters_and_input_of_different_dtypes(dtype, device):
    layer = with_backend(SMALL.layer(dtype=torch.float32), "triton").to(device)
    x, grad = (t.to(device) for t in tensors(SMALL, dtype=dtype))
    outcome = run(layer, x, grad)
    assert outcome["output"].dtype == outcome["grad x"].dtype == dtype
    assert all(outcome[f"grad {name}"].dtype == torch.float32 for name, _ in layer.named_parameters())


def test_weights_in_channels_last_have_the_same_gradients(device):
    x, grad = (t.to(device) for t in tensors(SMALL))
    layer = with_backend(SMALL.layer(), "triton").to(device)
    expected = run(layer, x, grad)
    assert_same(run(layer.to(memory_format=torch.channels_last), x, grad), expected)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_parameters_that_are_not_contiguous(layout, device):
    x, grad = (t.to(device, memory_format=layout) for t in tensors(SMALL))
    layer = SMALL.layer().to(device)
    for name, parameter in list(layer.named_parameters()):
        strided = torch.stack([parameter.detach(), parameter.detach() + 1], -1)[..., 0]
        owner, _, short = name.rpartition(".")
        setattr(layer.get_submodule(owner), short, torch.nn.Parameter(strided))
    assert not any(p.is_contiguous() and p.numel() > 1 for p in layer.parameters())
    assert_same(run(with_backend(layer, "triton"), x, grad), run(with_backend(layer, "reference"), x, grad))
