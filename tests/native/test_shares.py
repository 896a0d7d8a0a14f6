"""The compiled kernels with a share: lerp(x, layer(x), share) without another pass, against torch.lerp and float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from tests.kernels.helpers import outcomes
from tests.layers.cases import SMALL, EmamCase, ScamCase, assert_same, run, tensors, with_backend
from tests.layers.inputs import LAYOUTS, VALUES, emam_cases, scam_cases
from tests.layers.operators import opcheck

CUT = [  # a batch, and maps and matrices that are cut into tiles
    EmamCase(2, 24, 4, 33, 40),
    ScamCase(2, 34, 4, 33, 40, norm="batch"),
    EmamCase(1, 2, 1, 190, 180),
    ScamCase(1, 2, 1, 190, 180),
]
FORMATS = ("contiguous", "channels_last")
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SHARES = [0.0, 0.3, 1.0, -0.5, 2.0]

pytestmark = pytest.mark.usefixtures("kernels")


class Mixed(nn.Module):
    """A layer with a share, as the kernels compute it; for the backend "reference" by torch.lerp."""

    def __init__(self, layer, share, dtype=torch.float64):
        super().__init__()
        self.layer = layer
        self.share = nn.Parameter(torch.full((1,), share, dtype=dtype))
        self.backend = "native"

    def forward(self, x):
        layer = self.layer
        layer.backend = self.backend
        if self.backend == "reference":
            return torch.lerp(x, layer(x), self.share.to(x.dtype))
        return layer.mixed(x, self.share)


def bits(tensor):
    return tensor.contiguous().view({8: torch.int64, 4: torch.int32, 2: torch.int16}[tensor.itemsize])


@settings(max_examples=200)
@given(
    st.one_of(emam_cases(), scam_cases()),
    st.sampled_from(sorted(LAYOUTS)),
    st.sampled_from(sorted(VALUES)),
    st.one_of(st.sampled_from(SHARES), st.floats(-2, 2)),
    st.integers(0, 2**16),
)
def test_parity_with_lerp_on_drawn_cases(case, layout, values, share, seed):
    x, grad = tensors(case, seed)
    x = VALUES[values](x)
    if case.batch:
        x, grad = LAYOUTS[layout](x), LAYOUTS[layout](grad)
    assert_same(*outcomes(Mixed(case.layer(seed), share), x, grad, backend="native"))


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("case", CUT, ids=str)
def test_parity_of_maps_that_are_cut(case, layout, threads):
    x, grad = map(LAYOUTS[layout], tensors(case))
    assert_same(*outcomes(Mixed(case.layer(), 0.3), x, grad, backend="native"))


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_second_derivatives_are_those_of_lerp(case, layout):
    x = LAYOUTS[layout](tensors(case)[0]).requires_grad_()
    results = []
    for backend in ("native", "reference"):
        mixed = with_backend(Mixed(case.layer(), 0.3), backend)
        inputs = (x, *mixed.parameters())
        first = torch.autograd.grad(mixed(x).square().sum(), inputs, create_graph=True)
        results.append(torch.autograd.grad(sum(g.square().sum() for g in first), inputs))
    for actual, expected in zip(*results):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", [*FORMATS, "transposed"])
@pytest.mark.parametrize("case", [*SMALL, *CUT], ids=str)
def test_a_share_of_0_returns_the_input_bit_for_bit_and_leaves_the_layer_alone(case, layout, dtype):
    x, grad = (LAYOUTS[layout](t) for t in tensors(case, dtype=dtype))
    x = x * x.ge(0)  # with negative zeros
    outcome = run(Mixed(case.layer(dtype=dtype), 0.0, dtype), x, grad)
    assert torch.equal(bits(outcome["output"]), bits(x)) and torch.equal(outcome["grad x"], grad)
    assert outcome["grad share"].any()
    assert not any(value.any() for name, value in outcome.items() if name.startswith("grad layer."))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("case", [*SMALL, CUT[0], CUT[1]], ids=str)
def test_a_share_of_0_returns_inputs_that_are_not_finite(case, layout, dtype, value):
    x, grad = (LAYOUTS[layout](t) for t in tensors(case, dtype=dtype))
    x[0, 1, -1, 3] = value
    layer = case.layer(dtype=dtype)
    assert not layer(x).isfinite().all()
    for gradients in (False, True):
        with torch.set_grad_enabled(gradients):
            out = Mixed(layer, 0.0, dtype)(x)
        torch.testing.assert_close(out, x, rtol=0, atol=0, equal_nan=True)
    mixed = Mixed(layer, 0.3, dtype)(x)
    assert mixed[layer(x).isnan()].isnan().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("case", [*SMALL, *CUT], ids=str)
def test_a_share_of_1_is_the_layer_bit_for_bit(case, layout, dtype):
    x, grad = (LAYOUTS[layout](t) for t in tensors(case, dtype=dtype))
    layer = case.layer(dtype=dtype)
    alone = run(with_backend(layer, "native"), x, grad)
    mixed = run(Mixed(layer, 1.0, dtype), x, grad)
    for name, value in alone.items():
        kind, _, of = name.rpartition(" ")
        mixed_name = name if of in ("output", "x") else f"{kind} layer.{of}"
        assert torch.equal(mixed[mixed_name], value), name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("case", CUT[:2], ids=str)
def test_runs_are_equal_bit_for_bit(case, layout, dtype, use_threads):
    """Six runs, by one to four threads."""
    x, grad = (LAYOUTS[layout](t) for t in tensors(case, dtype=dtype))
    results = []
    for threads in (1, 2, 2, 3, 4, 4):
        use_threads(threads)
        results.append(run(Mixed(case.layer(dtype=dtype), 0.3, dtype), x, grad))
    for other in results[1:]:
        assert all(torch.equal(results[0][name], other[name]) for name in other)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("case", CUT, ids=str)
def test_the_output_and_the_shares_gradient_are_as_accurate_as_the_dtype(case, layout, dtype):
    x, grad = (LAYOUTS[layout](t) for t in tensors(case, dtype=dtype))
    exact_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    layer = case.layer(dtype=exact_dtype)  # half-precision maps are computed in float32
    actual = run(Mixed(layer, 0.3, exact_dtype), x, grad)
    wide, weights = x.double(), grad.double()
    out = with_backend(layer, "reference").double()(wide).detach()
    expected = torch.lerp(wide, out, 0.3)
    allowed = {torch.float64: 1e-15, torch.float32: 1e-6}.get(dtype, torch.finfo(dtype).eps)
    assert (actual["output"] - expected).abs().max() <= allowed * wide.abs().max()
    terms = weights * (out - wide)
    allowed = 1e-11 if dtype == torch.float64 else 1e-5
    assert (actual["grad share"] - terms.sum()).abs() <= allowed * terms.norm()


@pytest.mark.parametrize("layout", [*FORMATS, "strided"])
@pytest.mark.parametrize("case", [*SMALL, EmamCase(0, 8, 4, 3, 3), ScamCase(0, 8, 4, 3, 3)], ids=str)
def test_opcheck(case, layout):
    x, grad = (LAYOUTS[layout](t) if t.numel() else t for t in tensors(case))
    share = torch.full((1,), 0.3)
    opcheck(case, case.layer(), x, grad, "_native", share)


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_a_profiler_sees_the_operators(case):
    x, grad = tensors(case)
    expected = run(Mixed(case.layer(), 0.3), x, grad)
    with torch.autograd.profiler.profile() as profiler:
        outcome = run(Mixed(case.layer(), 0.3), x, grad)
    assert all(torch.equal(outcome[name], value) for name, value in expected.items())
    names = {event.name for event in profiler.function_events}
    assert sum(name.startswith("panet_layers::") for name in names) == 2 and "aten::lerp" not in names


@pytest.mark.parametrize("case", CUT[:2], ids=str)
def test_no_map_but_the_input_is_kept_for_the_backward(case):
    x, saved = tensors(case)[0].requires_grad_(), []
    with saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        Mixed(case.layer(), 0.3)(x)
    maps = [t for t in saved if t.shape == x.shape]
    assert len(maps) == 1 and maps[0].data_ptr() == x.data_ptr()
    assert sum(t.numel() for t in saved) < 2 * x.numel()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(), (1,)])
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_the_shares_gradient_has_its_shape_and_dtype(case, shape, dtype):
    x, grad = tensors(case, dtype=torch.float32)
    share = torch.full(shape, 0.25, dtype=dtype, requires_grad=True)
    layer = with_backend(case.layer(dtype=torch.float32), "native")
    layer.mixed(x, share).backward(grad)
    expected = (grad * (layer(x) - x)).sum()
    assert share.grad.shape == shape and share.grad.dtype == dtype
    torch.testing.assert_close(share.grad.float().sum(), expected, rtol=1e-2, atol=1e-2)
