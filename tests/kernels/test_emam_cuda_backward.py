"""EMAM's backward in CUDA C, as NVRTC compiles it, on CPU tensors in the emulator: `--emulate 80` or `90`."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from panet_layers.ops.cuda import baking, bindings, launching
from panet_layers.ops.emam import fused, gpu
from panet_layers.ops.emam.cuda import backward as cuda
from panet_layers.ops.emam.cuda import backward_plans, forward, planning, starting
from panet_layers.ops.emam.cuda.planning import TooLarge
from panet_layers.ops.emam.tensors import Parameters
from tests.devices import why_no_nvrtc
from tests.emulator import running
from tests.emulator.running import Options
from tests.kernels.cuda_c_cases import DTYPES, SHARE
from tests.kernels.helpers import assert_non_finite_alike
from tests.layers.cases import EmamCase, poisoned_memory, run, tensors, with_backend
from tests.layers.inputs import LAYOUTS
from tests.layers.precision import Budget, lowered, plain_run

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(why_no_nvrtc() is not None, reason=str(why_no_nvrtc())),
]

LARGE = [
    EmamCase(1, 182, 2, 19, 19), EmamCase(1, 64, 2, 37, 37), EmamCase(1, 256, 1, 10, 10), EmamCase(1, 16, 2, 56, 56),
    EmamCase(1, 24, 1, 24, 32), EmamCase(1, 8, 1, 147, 147), EmamCase(1, 150, 1, 3, 40), EmamCase(1, 12, 1, 150, 150),
    EmamCase(3, 3, 3, 5, 7), EmamCase(1, 32, 1, 37, 37),
]  # fmt: skip
BANDED = [EmamCase(1, 6, 2, 26, 9), EmamCase(1, 5, 1, 31, 6), EmamCase(2, 3, 1, 20, 33)]


@pytest.fixture
def in_bands(monkeypatch, emulation):
    """Let no plane be a band alone."""
    _in_bands(monkeypatch)
    yield
    _plan_again()


def _in_bands(monkeypatch) -> None:
    original = backward_plans._contract_plans
    monkeypatch.setattr(backward_plans, "_contract_plans", lambda *of: (p for p in original(*of) if p.bands > 1))
    _plan_again()


def _plan_again() -> None:
    for plan in (backward_plans.contract_plan, cuda._plan, forward._plan):
        plan.cache_clear()


def misaligned(tensor: Tensor, offset: int) -> Tensor:
    """The same numbers, `offset` elements into their storage."""
    storage = torch.empty(tensor.numel() + offset, dtype=tensor.dtype)
    return storage[offset:].view(tensor.shape).copy_(tensor)


def by_cuda(layer, x: Tensor, grad: Tensor) -> dict[str, Tensor]:
    """Output and gradients, on memory that is NaN until written."""
    with poisoned_memory():
        return run(with_backend(layer, "cuda"), x, grad)


def check_gradients(case: EmamCase, dtype: torch.dtype, offsets=(0, 0), draws: int = 2, shift: float = 0.0) -> None:
    """Output and gradients within the budget that the plain formulas set; x and grad start at these elements."""
    budget = Budget()
    for seed in range(draws):
        (layer, x, grad), exact = lowered(case, dtype, shift, seed)
        actual = by_cuda(layer, misaligned(x, offsets[0]), misaligned(grad, offsets[1]))
        budget.add(actual, plain_run(layer, x, grad), run(*exact), dtype)
    budget.check()


@pytest.mark.parametrize("case", SHARE, ids=str)
@pytest.mark.parametrize("i, dtype", list(enumerate(DTYPES)))
def test_gradients_are_within_the_budget(i, dtype, case, emulation):
    before = emulation.launches
    check_gradients(case, dtype, offsets=((i + case.height) % 3, i), draws=3)
    assert emulation.launches == before + 3 * (2 + 4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_of_shifted_maps_are_within_the_budget(dtype, emulation):
    check_gradients(EmamCase(1, 6, 2, 9, 7), dtype, shift=3.0, draws=3)


@pytest.mark.long
@pytest.mark.parametrize("case", LARGE, ids=str)
@pytest.mark.parametrize("i, dtype", list(enumerate(DTYPES)))
def test_gradients_of_larger_maps_are_within_the_budget(i, dtype, case, emulation):
    check_gradients(case, dtype, offsets=(i, 2 * i), draws=3)


@pytest.mark.parametrize("case", BANDED, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_by_bands_are_within_the_budget(dtype, case, in_bands, emulation):
    check_gradients(case, dtype, offsets=(1, 2), draws=4)
    assert "finish" in {program.name for program in emulation.kernels.values()}


@pytest.fixture
def plans_for_any_size(monkeypatch):
    """Let shapes whose sizes are compiled in have the plans of the others, forward and backward."""
    for module, names in ((planning, ("planes", "resident", "bands")), (cuda, ("contract_plan", "gradient_plan"))):
        for name in names:
            plan = getattr(module, name)
            monkeypatch.setattr(module, name, lambda *of, plan=plan: plan(*of[:-1], False))
    _plan_again()
    yield
    _plan_again()


@pytest.mark.usefixtures("emulation", "plans_for_any_size")
@pytest.mark.parametrize("case", [EmamCase(1, 10, 2, 11, 13), EmamCase(1, 4, 2, 26, 9)], ids=str)
@pytest.mark.parametrize("bands", ["emulation", "in_bands"])
def test_sizes_at_run_time_give_the_same_bits(case, bands, request, monkeypatch):
    request.getfixturevalue(bands)
    monkeypatch.setattr(baking, "_shapes", {})
    layer, (x, grad) = case.layer(dtype=torch.bfloat16), tensors(case, dtype=torch.bfloat16)
    baked = by_cuda(layer, x, grad)
    assert baking._shapes == {(case.channels // case.groups, case.height, case.width): True}
    monkeypatch.setattr(baking, "_shapes", {})
    monkeypatch.setattr(baking, "MOST_SHAPES", 0)
    at_run_time = by_cuda(layer, x, grad)
    for name, value in baked.items():
        assert torch.equal(at_run_time[name], value), name


@pytest.mark.parametrize("case", SHARE, ids=str)
def test_gradients_with_sizes_at_run_time_are_within_the_budget(case, emulation, monkeypatch):
    monkeypatch.setattr(baking, "_shapes", {})
    monkeypatch.setattr(baking, "MOST_SHAPES", 0)
    check_gradients(case, torch.bfloat16, offsets=(1, case.width % 3), draws=3)


@pytest.mark.usefixtures("emulation")
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("bands", ["emulation", "in_bands"])
@pytest.mark.parametrize("where", ["x", "grad"])
def test_values_that_are_not_finite_spread_alike(where, value, bands, request):
    request.getfixturevalue(bands)
    case = EmamCase(2, 6, 2, 26, 9)
    layer, (x, grad) = case.layer(dtype=torch.float32), tensors(case, dtype=torch.float32)
    {"x": x, "grad": grad}[where][0, 1, 2, 4] = value
    actual, exact = by_cuda(layer, x, grad), run(with_backend(layer.double(), "reference"), x.double(), grad.double())
    for name, tensor in exact.items():
        assert torch.equal(actual[name].isfinite(), tensor.isfinite()), name
        finite = tensor.isfinite()
        assert (actual[name][finite] - tensor[finite]).abs().max() <= 1e-4 if finite.any() else True, name
    if where == "x":
        assert_non_finite_alike({"x": actual["grad x"].sign()}, {"x": exact["grad x"].sign().float()})


@pytest.mark.parametrize("layout", ["channels_last", "strided", "transposed"])
def test_gradients_in_other_layouts(layout, emulation):
    case = EmamCase(2, 6, 2, 5, 7)
    layer, (x, grad) = case.layer(dtype=torch.float16), tensors(case, dtype=torch.float16)
    expected, actual = by_cuda(layer, x, grad), by_cuda(layer, x, LAYOUTS[layout](grad))
    assert all(torch.equal(actual[name], value) for name, value in expected.items())


def test_an_expanded_gradient(emulation):
    case = EmamCase(1, 6, 2, 5, 7)
    layer, (x, grad) = case.layer(dtype=torch.float32), tensors(case, dtype=torch.float32)
    ones = grad.new_ones(())
    expected, actual = by_cuda(layer, x, torch.ones_like(grad)), by_cuda(layer, x, ones.expand(grad.shape))
    assert all(torch.equal(actual[name], value) for name, value in expected.items())


@pytest.mark.usefixtures("emulation")
@pytest.mark.parametrize("bands", ["emulation", "in_bands"])
def test_two_runs_are_equal_bit_for_bit(bands, request):
    request.getfixturevalue(bands)
    case = EmamCase(2, 6, 2, 26, 9)
    layer, (x, grad) = case.layer(dtype=torch.float16), tensors(case, dtype=torch.float16)
    first, second = by_cuda(layer, x, grad), by_cuda(layer, x, grad)
    assert all(torch.equal(first[name], value) for name, value in second.items())


@pytest.mark.parametrize("of_x, of_parameters", [(True, False), (False, True)])
def test_gradients_of_some_inputs_only(of_x, of_parameters, emulation):
    case = EmamCase(1, 6, 2, 5, 7)
    layer, (x, grad) = with_backend(case.layer(dtype=torch.float32), "cuda"), tensors(case, dtype=torch.float32)
    expected = by_cuda(layer, x, grad)
    layer.requires_grad_(of_parameters)
    x = x.clone().requires_grad_(of_x)
    layer.zero_grad()
    layer(x).backward(grad)
    assert x.grad is None or torch.equal(x.grad, expected["grad x"])
    for name, parameter in layer.named_parameters():
        assert parameter.grad is None or torch.equal(parameter.grad, expected[f"grad {name}"])
    assert (x.grad is not None, layer.gn.weight.grad is not None) == (of_x, of_parameters)


@pytest.mark.long
def test_offsets_of_64_bits(emulation, monkeypatch):
    """The last of more than 2^31 elements; only the last blocks run, and touch memory."""
    monkeypatch.setattr(launching.machine.runner, "options", Options(sample=1))
    monkeypatch.setattr(running, "_sample", lambda blocks, most: np.arange(max(0, blocks - 64), blocks, dtype=np.int32))
    planes, side = 2**15 + 2, 256
    x, grad = (torch.empty(1, planes, side, side, dtype=torch.bfloat16) for _ in range(2))
    assert x.numel() > 2**31
    layer = EmamCase(1, planes, planes, 1, 1).layer(dtype=torch.bfloat16)
    x[:, -1].normal_(), grad[:, -1].normal_()
    params = Parameters(*(p.detach() for p in layer.parameters()))
    _, saved = forward.forward(x, params, planes, layer.eps)
    dx, _ = cuda.backward(grad, x, params, saved, planes)
    alone = EmamCase(1, 1, 1, side, side).layer(dtype=torch.float64)
    alone.load_state_dict(layer.state_dict())
    exact = run(with_backend(alone, "reference"), x[:, -1:].double(), grad[:, -1:].double())["grad x"]
    assert (dx[:, -1:] - exact).abs().max() <= 0.01 * exact.abs().max()


def test_opcheck(emulation):
    case = EmamCase(1, 4, 2, 5, 7)
    layer, (x, grad) = case.layer(dtype=torch.float32), tensors(case, dtype=torch.float32)
    params = [p.detach() for p in layer.parameters()]
    _, *saved = torch.ops.panet_layers.emam_cuda_forward(x, *params, case.groups, layer.eps)
    arguments = (grad, x, *params, *saved, case.groups)
    torch.library.opcheck(torch.ops.panet_layers.emam_cuda_backward.default, arguments)
    torch.library.opcheck(torch.ops.panet_layers.emam_gpu_backward.default, arguments)


def test_statistics_with_channels_outermost_give_the_same(emulation):
    case = EmamCase(2, 6, 2, 5, 7)
    layer, (x, grad) = case.layer(dtype=torch.float32), tensors(case, dtype=torch.float32)
    params = Parameters(*(p.detach() for p in layer.parameters()))
    _, saved = gpu.forward(x, params, case.groups, layer.eps)
    expected = cuda.backward(grad, x, params, saved, case.groups)
    outermost = [t.permute(2, 0, 1, 3).contiguous().permute(1, 2, 0, 3) for t in saved[:2]]
    moved = cuda.backward(grad, x, params, saved._replace(means=outermost[0], gates=outermost[1]), case.groups)
    for actual, value in zip(itertools.chain(moved[:1], moved[1]), itertools.chain(expected[:1], expected[1])):
        torch.testing.assert_close(actual, value, rtol=1e-5, atol=1e-6)


WIDE = EmamCase(1, 2, 2, 2, 513)


def test_maps_too_wide_for_the_backward_are_refused_by_both_directions(emulation):
    layer, (x, grad) = WIDE.layer(dtype=torch.float32), tensors(WIDE, dtype=torch.float32)
    params = Parameters(*(p.detach() for p in layer.parameters()))
    _, saved = fused.forward(x, params, WIDE.groups, layer.eps)
    refused = pytest.raises(TooLarge, match="'cuda' cannot run: it takes maps of width 512 at most, got 2 x 513")
    with refused:
        with_backend(layer, "cuda")(x)
    with refused:
        torch.ops.panet_layers.emam_cuda_backward(grad, x, *params, *saved, WIDE.groups)


def test_auto_takes_triton_for_both_directions_of_wide_maps(emulation, monkeypatch):
    layer, (x, grad) = WIDE.layer(dtype=torch.float32), tensors(WIDE, dtype=torch.float32)
    params = Parameters(*(p.detach() for p in layer.parameters()))
    monkeypatch.setattr(starting, "launch", lambda *arguments: pytest.fail("a kernel of CUDA C was launched"))
    (out, saved), expected = (kernels.forward(x, params, WIDE.groups, layer.eps) for kernels in (gpu, fused))
    (dx, _), (expected_dx, _) = (k.backward(grad, x, params, saved, WIDE.groups) for k in (gpu, fused))
    assert not gpu._failures and torch.equal(out, expected[0]) and torch.equal(dx, expected_dx)


def test_a_backward_that_cannot_be_launched_is_one_warning(emulation, monkeypatch):
    case = EmamCase(1, 4, 2, 5, 7)
    layer, (x, grad) = with_backend(case.layer(dtype=torch.float32), "auto"), tensors(case, dtype=torch.float32)
    params = Parameters(*(p.detach() for p in layer.parameters()))
    _, saved = gpu.forward(x, params, case.groups, layer.eps)

    def fails(*arguments):
        raise bindings.Unusable("no such luck")

    monkeypatch.setattr(starting, "launch", fails)
    monkeypatch.setattr(gpu, "_failures", [])
    with pytest.warns(UserWarning, match="Triton kernels instead of those of CUDA C.*no such luck") as caught:
        results = [gpu.backward(grad, x, params, saved, case.groups) for _ in range(2)]
    assert len(caught) == 1 and torch.equal(results[0][0], results[1][0])


SOURCES = ("delta.cu", "contract.cu", "finish.cu", "totals.cuh", "input_gradient.cu", "parameter_gradients.cu")
ORDER = ("__syncthreads();", "copies_arrived();")


def mutants():
    """(file, number of the line) of each barrier and wait."""
    for name in SOURCES:
        lines = (starting.FOLDER / name).read_text().splitlines()
        yield from ((name, i) for i, line in enumerate(lines) if line.strip().startswith(ORDER))


@pytest.mark.long
@pytest.mark.parametrize("name, line", list(mutants()), ids=str)
def test_a_barrier_that_is_left_out_is_noticed(name, line, emulation, tmp_path, monkeypatch):
    for path in starting.FOLDER.glob("*.cu*"):
        lines = path.read_text().splitlines()
        if path.name == name:
            assert lines[line].strip().startswith(ORDER)
            lines[line] = ""
        (tmp_path / path.name).write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(starting, "FOLDER", tmp_path)
    _plan_again()
    case = EmamCase(1, 80, 1, 26, 9)
    layer, (x, grad) = case.layer(dtype=torch.bfloat16), tensors(case, dtype=torch.bfloat16)
    with pytest.raises(RuntimeError):
        by_cuda(layer, x, grad)
        _in_bands(monkeypatch)
        by_cuda(layer, x, grad)
    monkeypatch.undo()
    _plan_again()
