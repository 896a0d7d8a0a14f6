"""EMAM's forward in CUDA C, as NVRTC compiles it, on CPU tensors in the emulator: `--emulate 80` or `90`."""

from collections import Counter

import pytest
import torch
from torch import Tensor

from panet_layers.ops.cuda import baking, launching
from panet_layers.ops.emam import chunked
from panet_layers.ops.emam.cuda import forward as cuda
from panet_layers.ops.emam.cuda import planning
from panet_layers.ops.emam.tensors import Parameters
from tests.devices import why_no_nvrtc
from tests.emulator.instructions import NUMBERS
from tests.emulator.running import Options
from tests.kernels.cuda_c_cases import DTYPES, SHARE
from tests.kernels.helpers import reference_run
from tests.layers.cases import EmamCase, poisoned_memory, run, tensors, with_backend
from tests.layers.precision import Budget, Plain, lowered

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(why_no_nvrtc() is not None, reason=str(why_no_nvrtc())),
]

LARGE = [
    EmamCase(1, 182, 2, 19, 19), EmamCase(1, 64, 2, 37, 37), EmamCase(1, 256, 1, 10, 10), EmamCase(1, 16, 2, 56, 56),
    EmamCase(1, 24, 1, 24, 32), EmamCase(1, 8, 1, 147, 147), EmamCase(1, 90, 1, 3, 66), EmamCase(1, 12, 1, 150, 150),
    EmamCase(3, 3, 3, 5, 7), EmamCase(1, 12, 4, 4, 8),
]  # fmt: skip
SMALL_LIMIT = 5 << 10  # bytes of shared memory with which small maps go by bands
BANDED = [EmamCase(1, 6, 2, 26, 9), EmamCase(1, 5, 1, 31, 6), EmamCase(2, 3, 1, 9, 33)]


@pytest.fixture
def in_bands(monkeypatch):
    """Let no instance fit."""
    monkeypatch.setattr(planning, "resident", lambda *arguments: None)
    cuda._plan.cache_clear()
    yield
    cuda._plan.cache_clear()


@pytest.fixture
def little_memory(monkeypatch, emulation):
    """Allow blocks so little shared memory that small maps need several bands; for any size they would not do."""
    monkeypatch.setattr(baking, "_shapes", {})
    capability = launching.machine.limits().capability
    limits = launching.Limits(capability, SMALL_LIMIT)
    monkeypatch.setattr(launching.machine, "limits", lambda: limits)


@pytest.fixture
def sizes_at_run_time(monkeypatch):
    """As in a process that has seen 16 other shapes."""
    monkeypatch.setattr(baking, "_shapes", {})
    monkeypatch.setattr(baking, "MOST_SHAPES", 0)


@pytest.fixture
def plans_for_any_size(monkeypatch):
    """Let shapes whose sizes are compiled in have the plans of the others."""
    for name in ("planes", "resident", "bands"):
        plan = getattr(planning, name)
        monkeypatch.setattr(planning, name, lambda *of, plan=plan: plan(*of[:-1], False))
    cuda._plan.cache_clear()
    yield
    cuda._plan.cache_clear()


def misaligned(tensor: Tensor, offset: int) -> Tensor:
    """The same numbers, `offset` elements into their storage."""
    storage = torch.empty(tensor.numel() + offset, dtype=tensor.dtype)
    view = storage[offset:].view(tensor.shape)
    return view.copy_(tensor)


def output_of(layer, x: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        return {"output": layer(x)}


def check_output(case: EmamCase, dtype: torch.dtype, offset: int = 0, draws: int = 2, shift: float = 0.0) -> None:
    """The output within the budget that the plain formulas set, on memory that is NaN until written."""
    budget = Budget()
    for seed in range(draws):
        (layer, x, _), (exact, exact_x, _) = lowered(case, dtype, shift, seed)
        with poisoned_memory():
            outcome = output_of(with_backend(layer, "cuda"), misaligned(x, offset))
        budget.add(outcome, output_of(Plain(layer), x), output_of(exact, exact_x), dtype)
    budget.check()


@pytest.mark.parametrize("case", SHARE, ids=str)
@pytest.mark.parametrize("i, dtype", list(enumerate(DTYPES)))
def test_the_output_is_within_the_budget(i, dtype, case, emulation):
    before = emulation.launches
    check_output(case, dtype, offset=(i + case.height) % 3)
    assert emulation.launches == before + 4  # pool and resident, of two draws


@pytest.mark.long
@pytest.mark.parametrize("case", LARGE, ids=str)
@pytest.mark.parametrize("i, dtype", list(enumerate(DTYPES)))
def test_the_output_of_larger_maps_is_within_the_budget(i, dtype, case, emulation):
    check_output(case, dtype, offset=i, draws=1)


@pytest.mark.parametrize("case", BANDED, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_output_by_bands_is_within_the_budget(dtype, case, in_bands, little_memory):
    check_output(case, dtype, offset=1)
    x, _ = tensors(case, dtype=dtype)
    bands = cuda.plan(x, case.groups)["band"]
    assert bands.blocks > case.batch * case.groups


@pytest.mark.parametrize("case", [EmamCase(1, 10, 2, 11, 13), EmamCase(1, 6, 2, 20, 9)], ids=str)
@pytest.mark.parametrize("path", ["resident", "in_bands"])
def test_sizes_at_run_time_give_the_same_bits(case, path, emulation, plans_for_any_size, request, monkeypatch):
    monkeypatch.setattr(baking, "_shapes", {})
    layer, (x, _) = with_backend(case.layer(dtype=torch.bfloat16), "cuda"), tensors(case, dtype=torch.bfloat16)
    if path == "in_bands":
        request.getfixturevalue("in_bands")
    baked = output_of(layer, x)["output"]
    assert all("BAKED" in dict(start.kernel.defines) for start in cuda.plan(x, case.groups).values())
    request.getfixturevalue("sizes_at_run_time")
    assert not any("BAKED" in dict(start.kernel.defines) for start in cuda.plan(x, case.groups).values())
    assert torch.equal(output_of(layer, x)["output"], baked)


@pytest.mark.parametrize("case", SHARE, ids=str)
def test_the_output_with_sizes_at_run_time_is_within_the_budget(case, emulation, sizes_at_run_time):
    check_output(case, torch.bfloat16, offset=1)


def saved_of(case: EmamCase, x: Tensor, layer) -> tuple[list[Tensor], list[Tensor]]:
    """Output and saved statistics, and the same in float64."""
    params = Parameters(*(p.detach() for p in layer.parameters()))
    out, saved = cuda.forward(x, params, case.groups, layer.eps)
    exact, kept = chunked.forward(x.double(), Parameters(*(p.double() for p in params)), case.groups, layer.eps)
    return [out, *saved], [exact, *kept]


@pytest.mark.parametrize("path", ["resident", "in_bands"])
@pytest.mark.parametrize("shift, most", [(0.0, 2e-5), (30.0, 2e-3)])
def test_what_is_saved_for_the_backward(path, shift, most, emulation, request):
    """30 standard deviations from zero cost digits, as they do in float32 by the plain formulas."""
    if path == "in_bands":
        request.getfixturevalue("in_bands")
    case = EmamCase(1, 34, 2, 13, 9)
    layer, (x, _) = case.layer(dtype=torch.float32), tensors(case, dtype=torch.float32)
    for actual, exact in zip(*saved_of(case, x + shift, layer)):
        assert actual.shape == exact.shape and actual.is_contiguous()
        assert (actual - exact).abs().max() <= most * exact.abs().max()


@pytest.mark.parametrize("path", ["resident", "in_bands"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_values_that_are_not_finite_stay_where_the_formulas_have_them(path, value, emulation, request):
    if path == "in_bands":
        request.getfixturevalue("in_bands")
    case = EmamCase(2, 10, 2, 13, 9)
    layer, (x, _) = case.layer(dtype=torch.bfloat16), tensors(case, dtype=torch.bfloat16)
    x[0, 3, 2, 4] = value
    actual, exact = output_of(with_backend(layer, "cuda"), x), output_of(with_backend(layer, "reference"), x)
    assert torch.equal(actual["output"].isfinite(), exact["output"].isfinite())
    assert 0 < int((~exact["output"].isfinite()).sum()) < x.numel()


def test_gradients_come_from_what_the_forward_saved(emulation):
    case = EmamCase(2, 6, 2, 5, 7)
    layer, (x, grad) = case.layer(dtype=torch.float32), tensors(case, dtype=torch.float32)
    with poisoned_memory():
        actual = run(with_backend(layer, "cuda"), x, grad)
    exact = reference_run(layer.double(), x.double(), grad.double())
    for name, value in exact.items():
        assert (actual[name] - value).abs().max() <= 1e-4 * max(1.0, value.abs().max()), name


def test_two_runs_are_equal_bit_for_bit(emulation):
    case = EmamCase(1, 12, 2, 9, 11)
    layer, (x, _) = with_backend(case.layer(dtype=torch.float16), "cuda"), tensors(case, dtype=torch.float16)
    first, second = (output_of(layer, x)["output"] for _ in range(2))
    assert torch.equal(first, second)


def test_no_elements_are_no_launches(emulation):
    before = emulation.launches
    case = EmamCase(0, 8, 2, 5, 5)
    layer = with_backend(case.layer(dtype=torch.float32), "cuda")
    assert output_of(layer, torch.empty(0, 8, 5, 5))["output"].shape == (0, 8, 5, 5) and emulation.launches == before


def test_a_map_that_is_too_large_is_named(emulation, monkeypatch):
    limits = launching.Limits((9, 0), 1 << 10)
    monkeypatch.setattr(launching.machine, "limits", lambda: limits)
    case = EmamCase(1, 8, 2, 40, 40)
    layer, (x, _) = case.layer(dtype=torch.float32), tensors(case, dtype=torch.float32)
    with pytest.raises(RuntimeError, match=r"'cuda' cannot run: .*4 channels.*40 x 40.*too large.*1024 bytes"):
        with_backend(layer, "cuda")(x)


def test_a_compiled_graph_holds_the_operator(emulation, fresh_compiler):
    case = EmamCase(1, 4, 2, 5, 7)
    layer, (x, grad) = with_backend(case.layer(dtype=torch.float32), "cuda"), tensors(case, dtype=torch.float32)
    eager = run(layer, x, grad)
    layer.compile(fullgraph=True, backend="aot_eager")
    compiled = run(layer, x, grad)
    assert all(torch.equal(compiled[name], value) for name, value in eager.items())


@pytest.mark.long
def test_offsets_of_64_bits(monkeypatch, emulation):
    """The last row of more than 2^31 elements; only the first and last blocks run, and touch memory."""
    monkeypatch.setattr(launching.machine.runner, "options", Options(sample=2))
    planes, side = 2**15 + 2, 256
    x = torch.empty(1, planes, side, side, dtype=torch.bfloat16)
    assert x.numel() > 2**31
    layer = EmamCase(1, planes, planes, 1, 1).layer(dtype=torch.bfloat16)
    x[:, -1].normal_()
    out = output_of(with_backend(layer, "cuda"), x)["output"][:, -1:, -1]
    alone = EmamCase(1, 1, 1, side, side).layer(dtype=torch.float64)
    alone.load_state_dict(layer.state_dict())
    exact = output_of(with_backend(alone, "reference"), x[:, -1:].double())["output"][:, :, -1]
    assert (out - exact).abs().max() <= 0.01 * exact.abs().max()


def weakened(case: EmamCase, emulation) -> dict[tuple[str, int, int], bool]:
    """For each barrier (kernel, number, of so many): whether it is noticed that only a warp waits at it."""
    layer, (x, _) = with_backend(case.layer(dtype=torch.float32), "cuda"), tensors(case, dtype=torch.float32)
    emulation.kernels.clear()
    expected = output_of(layer, x)["output"]

    def differs() -> bool:
        try:
            return not torch.equal(output_of(layer, x)["output"], expected)
        except RuntimeError:  # a finding
            return True

    noticed = {}
    for program in list(emulation.kernels.values()):
        barriers = [at for at, name in enumerate(program.names) if name.startswith("bar")]
        for i, at in enumerate(barriers):
            before = program.instructions[at].copy()
            program.instructions[at]["operation"] = NUMBERS["warp_barrier"]
            noticed[program.name, i, len(barriers)] = differs()
            program.instructions[at] = before
    return noticed


@pytest.mark.long
def test_each_barrier_is_missed_on_some_map(emulation, monkeypatch, request):
    """Not on each: where a warp has all strips of a share, for example, its threads read what it has written."""
    noticed = Counter()
    for case in (EmamCase(1, 24, 2, 13, 17), EmamCase(1, 9, 1, 40, 33)):
        noticed.update(weakened(case, emulation))
    request.getfixturevalue("in_bands")
    noticed.update(weakened(EmamCase(1, 9, 1, 40, 33), emulation))
    monkeypatch.setattr(launching.machine, "limits", lambda: launching.Limits((9, 0), 12 << 10))
    for case in (EmamCase(1, 8, 2, 40, 33), EmamCase(1, 3, 1, 26, 34)):
        noticed.update(weakened(case, emulation))
    assert len(noticed) > 20 and [barrier for barrier, times in noticed.items() if not times] == []


def test_opcheck(emulation):
    case = EmamCase(1, 4, 2, 5, 7)
    layer, (x, _) = case.layer(dtype=torch.float32), tensors(case, dtype=torch.float32)
    arguments = (x, *(p.detach() for p in layer.parameters()), case.groups, layer.eps)
    torch.library.opcheck(torch.ops.panet_layers.emam_cuda_forward.default, arguments)
    torch.library.opcheck(torch.ops.panet_layers.emam_gpu_forward.default, arguments)
