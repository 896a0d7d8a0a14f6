"""EMAM's Triton kernels against the reference: outputs and gradients in float64, error budgets in lower precision."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from panet_layers.ops.emam.nchw import fits, forward, tiling, whole
from tests.devices import interpreting, on_interpreter
from tests.kernels import helpers
from tests.layers.cases import (
    EMAM_CASES,
    LOW_PRECISION,
    EmamCase,
    assert_one_compilation_serves,
    assert_same,
    interpreted,
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
MORE = [
    EmamCase(1, 3, 1, 17, 3),  # a step of rows and one row
    EmamCase(1, 2, 2, 3, 35),  # a strip of columns and three columns
    EmamCase(1, 2, 1, 2, 66),
    EmamCase(1, 11, 1, 4, 5),  # more channels than a block, but not twice as many
    EmamCase(2, 2, 1, 16, 16),
    EmamCase(1, 1, 1, 12, 12),
]
SMALL = EmamCase(2, 6, 2, 5, 4)
NCHW = sorted(set(LAYOUTS) - {"channels_last"})


@pytest.fixture
def in_passes(monkeypatch):
    """Run the passes for every instance; hold none on the chip."""
    monkeypatch.setattr(whole, "ON_CHIP_BYTES", 0)


@pytest.fixture
def on_the_chip(monkeypatch, device):
    """Hold small instances on the chip; compiled, only where this version of triton compiles that well."""
    if not interpreting() and not whole.COMPILES_WELL:
        pytest.skip("with this triton no instance is held on the chip")
    monkeypatch.setattr(whole, "COMPILES_WELL", True)


@pytest.fixture(params=["on_the_chip", "in_passes"])
def either_forward(request):
    """Both ways: small instances held on the chip, and in passes."""
    request.getfixturevalue(request.param)


@pytest.mark.parametrize("case", [*TABLE, *interpreted(MORE, on_gpus=set())], ids=str)
def test_parity(case, device, either_forward):
    assert_same(*helpers.outcomes(case.layer(), *tensors(case), device))


@pytest.mark.parametrize("k, height, on_chip", [(4, 32, True), (5, 32, False), (4, 33, False)])
def test_parity_where_instances_just_fit_and_do_not(k, height, on_chip, device, on_the_chip):
    case = EmamCase(1, k, 1, height, 32)
    assert fits(k, height * 32, torch.float64) == on_chip
    assert_same(*helpers.outcomes(case.layer(), *tensors(case), device))


def test_which_instances_fit_on_the_chip(monkeypatch):
    """8192 numbers in single precision, half of it in double, both sides padded."""
    monkeypatch.setattr(whole, "COMPILES_WELL", True)
    for channels, pixels in [(8, 28 * 28), (8, 1024), (128, 49), (1, 8192), (512, 1), (91, 64)]:
        assert fits(channels, pixels, torch.float32)
    for channels, pixels in [(8, 1025), (9, 1024), (128, 65), (1, 8193), (513, 1), (91, 361)]:
        assert not fits(channels, pixels, torch.float32)
    assert fits(128, 32, torch.float64) and not fits(128, 33, torch.float64)
    monkeypatch.setattr(whole, "COMPILES_WELL", False)
    assert not fits(1, 1, torch.float32)


@pytest.fixture
def small_tiles(monkeypatch, in_passes):
    """Cut attention maps as if they were large."""
    monkeypatch.setattr(tiling, "PIXELS", 32)
    tiling.tiling.cache_clear()
    yield
    tiling.tiling.cache_clear()


@pytest.mark.parametrize("case", [EmamCase(1, 2, 1, 7, 6), EmamCase(1, 2, 1, 1, 40), EmamCase(1, 2, 1, 40, 1)], ids=str)
@pytest.mark.parametrize("enough_warps", [1, 1000], ids=["whole", "split"])
def test_parity_in_small_tiles(case, enough_warps, device, small_tiles, monkeypatch):
    monkeypatch.setattr(forward, "ENOUGH_WARPS", enough_warps)
    cut = tiling.tiling(case.height, case.width)
    assert cut.across * cut.down > 1
    assert_same(*helpers.outcomes(case.layer(), *tensors(case), device))


@pytest.mark.parametrize("enough_warps", [1, 1000], ids=["whole", "split"])
def test_parity_in_shares_of_channels(enough_warps, device, in_passes, monkeypatch):
    monkeypatch.setattr(forward, "ENOUGH_WARPS", enough_warps)
    case = EmamCase(1, 9, 1, 3, 4)
    assert_same(*helpers.outcomes(case.layer(), *tensors(case), device))


@pytest.mark.parametrize("pixels", [tiling.PIXELS, 128])
def test_tiles_cover_the_map(pixels, small_tiles, monkeypatch):
    monkeypatch.setattr(tiling, "PIXELS", pixels)
    sides = [1, 2, 3, 19, 31, 32, 33, 74, 147, 500, 5000]
    for height in sides:
        for width in sides:
            cut = tiling.tiling(height, width)
            assert cut.down * cut.own_h >= height and cut.across * cut.own_w >= width
            assert (cut.own_h + 2 * cut.halo_h) * (cut.own_w + 2 * cut.halo_w) <= cut.pixels <= pixels
            assert cut.halo_h == (cut.down > 1) and cut.halo_w == (cut.across > 1)


@pytest.mark.parametrize("layout", NCHW)
def test_parity_in_every_layout(layout, device, either_forward):
    x, grad = map(LAYOUTS[layout], tensors(SMALL))
    actual, expected = helpers.outcomes(SMALL.layer(), x, grad, device)
    assert_same(actual, expected)


def test_gradient_of_another_layout(device):
    x, grad = tensors(SMALL)
    assert_same(*helpers.outcomes(SMALL.layer(), x, grad.contiguous(memory_format=torch.channels_last), device))
    assert_same(*helpers.outcomes(SMALL.layer(), x, grad.new_ones(()).expand(grad.shape), device))


@pytest.mark.parametrize("values", sorted(set(VALUES) - {"normal"}))
def test_parity_on_special_values(values, device, either_forward):
    case = SMALL._replace(batch=1)
    x, grad = tensors(case)
    assert_same(*helpers.outcomes(case.layer(), VALUES[values](x), grad, device))


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
def test_non_finite_input_spreads_alike(value, device, either_forward):
    x, grad = tensors(SMALL)
    x[0, 1, 2, 3] = value
    helpers.assert_non_finite_alike(*helpers.outcomes(SMALL.layer(), x, grad, device))


@pytest.mark.emulated
def test_offsets_of_64_bits(device, either_forward, monkeypatch):
    """The code for planes of more than 2^31 elements, on a small plane."""
    monkeypatch.setattr(tiling, "WIDE", 0)
    assert_same(*helpers.outcomes(SMALL.layer(), *tensors(SMALL), device))


@pytest.mark.xdist_group("most of the GPU's memory")
def test_channels_far_apart(device, in_passes):
    """Four channels 720 million numbers apart, in memory that is reserved and hardly touched."""
    case, apart = EmamCase(1, 4, 1, 5, 6), 720_000_000
    dense, grad = (t.to(device) for t in tensors(case, dtype=torch.float16))
    x = torch.empty(3 * apart + 30, dtype=torch.float16, device=device)
    x = x.as_strided((1, 4, 5, 6), (4 * apart, apart, 6, 1)).copy_(dense)
    layer = with_backend(case.layer(dtype=torch.float32), "triton").to(device)
    assert_same(run(layer, x, grad), run(layer, dense, grad), 0)


@pytest.mark.emulated
@pytest.mark.xdist_group("most of the GPU's memory")
def test_rows_far_apart(device, either_forward):
    """Two rows 2^31 numbers apart: within a plane, offsets take 64 bits."""
    case = EmamCase(1, 8, 2, 2, 2)
    dense, grad = (t.to(device) for t in tensors(case, dtype=torch.float16))
    x = torch.empty(2**31 + 16, dtype=torch.float16, device=device).as_strided((1, 8, 2, 2), (16, 2, 2**31, 1))
    x.copy_(dense)
    layer = with_backend(case.layer(dtype=torch.float32), "triton").to(device)
    assert_same(run(layer, x, grad), run(layer, dense, grad), 0)


def test_maps_of_more_pixels_than_32_bits_count():
    on_interpreter()
    layer = with_backend(EmamCase(1, 8, 2, 1, 1).layer(dtype=torch.float32), "triton")
    with pytest.raises(ValueError, match=r"maps of less than 2147479552 pixels, got \(1, 8, 46341, 46341\)"):
        layer(torch.empty(1).expand(1, 8, 46341, 46341))


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
def test_error_budget(dtype, shift, device, either_forward):
    helpers.skip_truncation(dtype, device)
    by_kernels = lambda layer, x, grad: run(with_backend(layer, "triton"), x, grad)  # noqa: E731
    helpers.check_budget(by_kernels, EmamCase(1, 6, 2, 9, 7), dtype, shift, draws=3, device=device)


def test_a_large_offset_in_float32(device, either_forward):
    helpers.check_large_offset(EmamCase(1, 2, 1, 18, 9), torch.contiguous_format, device)


def test_two_runs_are_equal_bit_for_bit(device, either_forward):
    case = EmamCase(2, 4, 2, 18, 33)
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
