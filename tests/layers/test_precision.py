"""Low precision and autocast: how far from the float64 answer, and in which dtype.

The budget is relative to float64: a result may be at most twice as far from it as the plain formulas, run in that
precision throughout, plus a rounding.
"""

import pytest
import torch

from panet_layers import EMAM
from tests.layers.cases import (
    BACKENDS,
    HAND_WRITTEN,
    LOW_PRECISION,
    SMALL,
    EmamCase,
    ScamCase,
    assert_same,
    run,
    tensors,
    with_backend,
)
from tests.layers.precision import Budget, Plain, lowered, plain_run

pytestmark = pytest.mark.usefixtures("by_hand_at_any_size")

DRAWS = 24

PRECISION_CASES = [
    EmamCase(2, 64, 8, 13, 17),
    EmamCase(2, 8, 8, 36, 20),
    EmamCase(1, 12, 1, 9, 9),
    ScamCase(2, 48, 8, 13, 17),
    ScamCase(2, 48, 8, 13, 17, mlp_bias=True, norm="batch"),
    ScamCase(2, 48, 8, 13, 17, mlp_bias=True, norm="batch", training=False),
]


def error(outcome, exact, name):
    """The distance from the float64 answer, relative to its norm."""
    return ((outcome[name].double() - exact[name]).norm() / exact[name].double().norm()).item()


@pytest.mark.parametrize("shift", [0.0, 3.0], ids=["centred", "shifted"])
@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=str)
@pytest.mark.parametrize("case", PRECISION_CASES, ids=str)
@pytest.mark.parametrize("backend", HAND_WRITTEN)
def test_error_budget(case, dtype, shift, backend):
    """Over many draws."""
    budget = Budget()
    for seed in range(DRAWS):
        low, high = lowered(case, dtype, shift, seed)
        budget.add(run(with_backend(low[0], backend), *low[1:]), plain_run(*low), run(*high), dtype)
    budget.check()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", PRECISION_CASES, ids=str)
def test_half_precision_input_costs_only_roundings(case, backend):
    """Statistics and gates are in float32: the output is the float64 one, rounded, up to a last digit."""
    low, high = lowered(case, torch.bfloat16)
    out, exact, plain = with_backend(low[0], backend)(low[1]), high[0](high[1]), Plain(low[0])(low[1])
    distance = (out.double() - exact).norm() / exact.norm()
    assert distance <= torch.finfo(torch.bfloat16).eps / 2
    assert distance < (plain.double() - exact).norm() / exact.norm() / 1.5


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", SMALL, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backward_inside", [False, True], ids=["outside", "inside"])
def test_autocast(case, backend, dtype, backward_inside):
    layer = with_backend(case.layer(dtype=torch.float32), backend)
    exact = run(with_backend(layer, "reference").double(), *(t.to(dtype).double() for t in tensors(case)))
    x, grad = tensors(case, dtype=dtype)
    x.requires_grad_()

    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
        if backward_inside:
            out.backward(grad)
    if not backward_inside:
        out.backward(grad)

    assert out.dtype == x.grad.dtype == dtype
    assert all(p.grad.dtype == torch.float32 for p in layer.parameters())
    outcome = {"output": out.detach(), "grad x": x.grad}
    outcome |= {f"grad {name}": p.grad for name, p in layer.named_parameters()}
    outcome |= {f"after {name}": b for name, b in layer.named_buffers() if b.is_floating_point()}
    # The formulas' own backward runs in bfloat16 inside the block, as every torch module's does; the rest is float32.
    formulas_backward = backward_inside and backend == "reference"
    for name in outcome:
        rounded = name in ("output", "grad x") and dtype == torch.bfloat16
        coarse = rounded or (formulas_backward and name.startswith("grad"))
        assert error(outcome, exact, name) <= (3e-2 if coarse else 1e-4), name


@pytest.mark.parametrize("backend", HAND_WRITTEN)
def test_autocast_after_a_convolution(backend):
    """A convolution under autocast returns bfloat16; the layer returns it too, and its own gradients stay float32."""
    for case in SMALL:
        convolution = torch.nn.Conv2d(3, case.channels, 3)
        layer = with_backend(case.layer(dtype=torch.float32), backend)
        with torch.autocast("cpu", torch.bfloat16):
            out = layer(convolution(torch.randn(2, 3, 9, 9)))
        assert out.dtype == torch.bfloat16
        out.float().sum().backward()
        assert convolution.weight.grad.dtype == torch.float32 and convolution.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_sums_that_overflow_float16_stay_finite(backend):
    """In float16 the plain convolution can pass 65504; float32 accumulation can't."""
    layer = EMAM(64, 1, backend=backend, dtype=torch.float16)
    with torch.no_grad():
        layer.conv3x3.weight.fill_(60)
        layer.gn.bias.zero_()
    x = torch.full((1, 64, 4, 4), 200.0, dtype=torch.float16)
    assert not Plain(layer)(x).isfinite().all() or Plain(layer)(x).equal(layer(x))
    assert layer(x).isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_parameters_and_input_of_different_dtypes(backend, dtype):
    """Half-precision activations with float32 parameters, without autocast, as the statistics are in float32 anyway."""
    for case in SMALL:
        layer = with_backend(case.layer(dtype=torch.float32), backend)
        x, grad = tensors(case, dtype=dtype)
        outcome = run(layer, x, grad)
        assert outcome["output"].dtype == outcome["grad x"].dtype == dtype
        assert all(outcome[f"grad {name}"].dtype == torch.float32 for name, _ in layer.named_parameters())


@pytest.mark.parametrize("backend", HAND_WRITTEN)
def test_backends_agree_in_float32_on_a_large_offset(backend):
    """Variances are of centred values: an offset of 1000 standard deviations costs digits, not the answer."""
    case = EmamCase(1, 8, 8, 16, 16)
    layer = case.layer(dtype=torch.float64)
    with torch.no_grad():
        layer.conv1x1.weight.mul_(1e-4)
    x, grad = tensors(case)
    x = x + 1000
    exact = run(with_backend(layer, "reference"), x, grad)
    assert_same(run(with_backend(layer, backend), x, grad), exact, 1e-8)
    single = with_backend(layer, backend).float()(x.float())
    plain = with_backend(layer, "reference").float()(x.float())
    distance = (single.double() - exact["output"]).norm()
    assert distance <= 2 * (plain.double() - exact["output"]).norm() + 1e-7 * exact["output"].norm()


@pytest.mark.parametrize("backend", HAND_WRITTEN)
def test_a_variance_beyond_float16_may_have_a_share_within_it(backend):
    """In float16 the running variance takes a hundredth of the batch's, which may pass 65504."""
    case = ScamCase(2, 8, 4, 5, 4, norm="batch")
    x, grad = tensors(case)
    x, layer = (x * 1000).half(), case.layer(dtype=torch.float16)
    expected = run(with_backend(layer, "reference").double(), x.double(), grad)["after spatial.bn.running_var"]
    actual = run(with_backend(layer, backend), x, grad.half())["after spatial.bn.running_var"]
    assert 655.04 < expected < 65504
    assert (actual.double() - expected).abs() <= 2 * torch.finfo(torch.float16).eps * expected
