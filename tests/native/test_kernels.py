"""The compiled kernels against the reference in float64: layouts, numbers of threads, special values, repeated runs."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

from panet_layers import EMAM, SCAM
from tests.kernels.helpers import assert_non_finite_alike, check_large_offset, outcomes
from tests.layers.cases import CASES as ALL
from tests.layers.cases import SMALL, EmamCase, ScamCase, assert_same, run, tensors, with_backend
from tests.layers.inputs import LAYOUTS, VALUES, emam_cases, scam_cases
from tests.layers.operators import opcheck

CASES = [
    *SMALL,
    EmamCase(2, 24, 4, 33, 40),
    EmamCase(1, 34, 2, 1, 19),
    EmamCase(1, 34, 2, 19, 1),
    ScamCase(2, 34, 4, 33, 40),
    ScamCase(1, 3, 1, 1, 19, norm="batch"),
    ScamCase(1, 3, 1, 19, 1, kernel_size=1, norm="batch", training=False),
]
LARGE = [  # maps that are cut into tiles, and matrices of more than a panel
    EmamCase(1, 2, 1, 190, 180),
    EmamCase(1, 64, 1, 50, 50),
    EmamCase(1, 290, 1, 3, 4),
    ScamCase(1, 2, 1, 190, 180),
    ScamCase(1, 300, 1, 9, 9, norm="batch"),
]
FORMATS = ("contiguous", "channels_last")

pytestmark = pytest.mark.usefixtures("kernels")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_parity_in_every_layout(case, layout, threads):
    x, grad = map(LAYOUTS[layout], tensors(case))
    assert_same(*outcomes(case.layer(), x, grad, backend="native"))


@pytest.mark.parametrize("case", ALL, ids=str)
def test_parity_on_the_table(case):
    assert_same(*outcomes(case.layer(), *tensors(case), backend="native"))


@settings(max_examples=300)
@given(
    st.one_of(emam_cases(), scam_cases()),
    st.sampled_from(sorted(LAYOUTS)),
    st.sampled_from(sorted(VALUES)),
    st.integers(0, 2**16),
)
def test_parity_on_drawn_cases(case, layout, values, seed):
    x, grad = tensors(case, seed)
    x = VALUES[values](x)
    if case.batch:
        x, grad = LAYOUTS[layout](x), LAYOUTS[layout](grad)
    assert_same(*outcomes(case.layer(seed), x, grad, backend="native"))


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", [(3, 64, 75, 75), (2, 40, 1, 13200), (33000, 16, 1, 3), (13200, 16, 5, 1)], ids=str)
def test_parity_of_outputs_past_the_caches(size, dtype, layout, use_threads):
    """At least 4 MB, in planes that end anywhere in a vector."""
    use_threads(2)
    layer, x = EMAM(size[1], 8), torch.randn(size, dtype=dtype)
    x = LAYOUTS[layout](x)
    assert x.nbytes >= 1 << 22
    layer.to(dtype)
    actual, expected = (with_backend(layer, name)(x).detach() for name in ("native", "reference"))
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize(
    ("size", "change", "allowed"),
    [
        ((1, 64, 147, 147), torch.relu, 3e-7),  # half of the numbers are equal: their rounding errors do not cancel
        ((1, 4, 1, 200_000), lambda x: x + 3, 1.5e-6),
        ((1, 4, 200_000, 1), lambda x: x + 3, 1.5e-6),
    ],
    ids=["relu", "row", "column"],
)
def test_long_sums_in_float32(size, change, allowed, layout):
    """The error against float64, where that of the formulas is up to 1.3e-7, 3.4e-7 and 4.1e-7."""
    torch.manual_seed(0)
    x, layer = change(torch.randn(size)), EMAM(size[1], 2)
    actual = with_backend(layer, "native")(LAYOUTS[layout](x))
    expected = with_backend(layer.double(), "reference")(x.double())
    assert (actual - expected).abs().max() <= allowed * expected.abs().max()


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("case", LARGE, ids=str)
def test_parity_of_large_maps_and_matrices(case, layout, threads):
    x, grad = map(LAYOUTS[layout], tensors(case))
    assert_same(*outcomes(case.layer(), x, grad, backend="native"))


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_a_gradient_in_another_layout(case, layout):
    x, grad = tensors(case)
    x = LAYOUTS[layout](x)
    for other in (*LAYOUTS.values(), lambda g: g.new_ones(()).expand(g.shape)):
        assert_same(*outcomes(case.layer(), x, other(grad), backend="native"))


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_parity_on_special_values(case, layout, values, threads):
    x, grad = tensors(case)
    assert_same(*outcomes(case.layer(), LAYOUTS[layout](VALUES[values](x)), grad, backend="native"))


def assert_spreads_alike(actual, expected):
    """As `assert_non_finite_alike`, but torch's convolution multiplies padding by NaN too, and the kernels do not."""
    name = "grad spatial.conv.weight"
    if name in expected:
        spared = actual[name].isfinite() & ~expected[name].isfinite()
        expected[name] = torch.where(spared, actual[name], expected[name])
    assert_non_finite_alike(actual, expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")], ids=str)
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("case", [*SMALL, *CASES[4:5], *CASES[7:8]], ids=str)
def test_non_finite_input_spreads_alike(case, layout, value, threads):
    x, grad = tensors(case)
    x[0, 1, -1, 3] = value
    assert_spreads_alike(*outcomes(case.layer(), LAYOUTS[layout](x), grad, backend="native"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_a_non_finite_gradient_spreads_alike(case, value):
    x, grad = tensors(case)
    grad[0, 1, -1, 3] = value
    assert_spreads_alike(*outcomes(case.layer(), x, grad, backend="native"))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_a_large_offset_in_float32(memory_format, threads):
    check_large_offset(EmamCase(1, 2, 1, 18, 9), memory_format, backend="native")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("case", [CASES[4], CASES[7], ScamCase(2, 34, 4, 33, 40, norm="batch")], ids=str)
def test_runs_are_equal_bit_for_bit(case, layout, dtype, use_threads):
    """Five runs, by one to three threads: while a map is not cut, their number changes nothing."""
    x, grad = (LAYOUTS[layout](t) for t in tensors(case, dtype=dtype))
    results = []
    for threads in (1, 2, 2, 3, 3):
        use_threads(threads)
        results.append(run(with_backend(case.layer(dtype=dtype), "native"), x, grad))
    for other in results[1:]:
        assert all(torch.equal(results[0][name], other[name]) for name in other)


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_denormal_numbers(case):
    x, grad = (t * 1e-40 for t in tensors(case, dtype=torch.float32))
    layer = case.layer(dtype=torch.float32)
    actual, expected = outcomes(layer, x, grad, backend="native")
    assert_same(actual, expected, 1e-6)


@pytest.mark.parametrize("layout", [*FORMATS, "strided"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", [*SMALL, EmamCase(0, 8, 4, 3, 3), ScamCase(0, 8, 4, 3, 3)], ids=str)
def test_opcheck(case, dtype, layout):
    x, grad = (LAYOUTS[layout](t) if t.numel() else t for t in tensors(case, dtype=dtype))
    opcheck(case, case.layer(dtype=dtype), x, grad, "_native")


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_negative_views(case):
    """The imaginary part of a conjugate shares its memory, where the signs are not yet changed."""
    x, grad = (torch.complex(t, -t).conj().imag for t in tensors(case))
    assert x.is_neg() and torch.equal(x, tensors(case)[0])
    assert_same(*outcomes(case.layer(), x, grad, backend="native"))


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_parameters_that_are_negative_views(case):
    layer, (x, _) = case.layer(), tensors(case)
    values = {name: torch.complex(p, -p).conj().imag for name, p in layer.state_dict().items() if p.is_floating_point()}
    assert all(p.is_neg() for p in values.values())
    out = functional_call(with_backend(layer, "native"), values, x)
    assert torch.equal(out, layer(x))


@pytest.mark.parametrize("layer", [EMAM(16, 2), SCAM(16, 4, mlp_bias=True, spatial_norm="batch")])
def test_parameters_of_other_shapes_are_refused(layer):
    """The kernels would read past their ends, or the gradients be written past theirs."""
    layer, x = with_backend(copy.deepcopy(layer), "native"), torch.randn(2, 16, 5, 4)
    for name, parameter in layer.named_parameters():
        if name.startswith("channel.fc1"):
            shapes = [(*parameter.shape, 1)]  # the hidden width is free
        else:
            shapes = [(0,), (1, *parameter.shape), (parameter.shape[0] + 1, *parameter.shape[1:])]
        given = parameter.data
        for shape in shapes:
            parameter.data = torch.ones(shape)
            for call in (layer, torch.no_grad()(layer)):
                with pytest.raises(ValueError, match="shape"):
                    call(x)
        parameter.data = given
    assert layer(x).isfinite().all()


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_tracing_before_dispatch_sees_the_operator(case):
    layer, (x, other) = with_backend(case.layer(), "native"), tensors(case)
    traced = make_fx(lambda x: layer(x), pre_dispatch=True)(x)
    assert torch.equal(traced(other), layer(other))


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_a_default_device_changes_nothing(case):
    layer, x = with_backend(case.layer(), "native"), tensors(case)[0].requires_grad_()
    expected = layer(x)
    with torch.device("meta"):
        out = layer(x)
    assert torch.equal(out, expected)
    out.sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_a_parameter_whose_storage_was_freed(case):
    layer = with_backend(case.layer(), "native")
    next(layer.parameters()).untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match="has no memory: its storage was freed"):
        layer(tensors(case)[0])


@pytest.mark.parametrize("layer", [EMAM, SCAM])
def test_another_dtype_is_refused(layer):
    x = torch.ones(1, 8, 2, 2).to(torch.float8_e5m2)
    with pytest.raises(RuntimeError, match=r"'native' cannot run: it takes torch\.float32, .* input is torch\.float8"):
        layer(8, 4, backend="native")(x)
