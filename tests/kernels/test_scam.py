"""SCAM's Triton kernels against the reference: on a GPU, or on a CPU as Python under Triton's interpreter."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from panet_layers.ops.precision import accumulation_dtype
from panet_layers.ops.scam import fused
from panet_layers.ops.scam import triton as kernels
from panet_layers.ops.scam.triton import maps, tiling
from tests.devices import interpreting
from tests.kernels.helpers import assert_non_finite_alike, check_budget, fused_run, reference_run, skip_truncation
from tests.layers.cases import (
    SCAM_CASES,
    SMALL,
    ScamCase,
    assert_one_compilation_serves,
    assert_same,
    interpreted,
    run,
    tensors,
    with_backend,
)
from tests.layers.derivatives import as_function, double_backward, saved_tensors
from tests.layers.hosts import Block
from tests.layers.inputs import LAYOUTS, VALUES, scam_cases
from tests.layers.operators import opcheck
from tests.layers.published import GOLDEN, build, expected_outcome, in_our_terms, load, ours, timms

SMALL_SCAM = [case for case in SMALL if isinstance(case, ScamCase)]

ODD = [
    ScamCase(1, 2048, 16, 2, 3),
    ScamCase(2, 65, 8, 17, 19, norm="batch"),
    ScamCase(3, 3, 1, 1, 130, kernel_size=3, mlp_bias=True),
    ScamCase(2, 130, 64, 3, 1, norm="batch"),
    ScamCase(1, 1, 1, 1, 1),
    ScamCase(1, 7, 2, 1, 2, kernel_size=11, norm="batch"),  # more taps than pixels, and than a tile of taps
    ScamCase(2, 12, 4, 8, 8, kernel_size=9, mlp_bias=True, norm="batch", training=False),
    ScamCase(1, 40, 8, 14, 14, norm="batch"),
]

# Of these a GPU runs those with few and many channels, odd and even maps, with a normalisation and without.
TABLE = interpreted([*SCAM_CASES, *ODD], on_gpus={1, 7, 15, 28, 31, 35, 37})
CHANNELS_LAST = interpreted([*SCAM_CASES[1::3], *ODD], on_gpus={0, 2, 9, 11})

FORMATS = ["contiguous", "channels_last"]


@pytest.fixture(autouse=True)
def few_programs(device, monkeypatch):
    """Larger and fewer programs: the interpreter runs them one after the other. Some tests undo this."""
    if interpreting():
        monkeypatch.setattr(tiling, "PROGRAMS_PER_PROCESSOR", 0.04)
        monkeypatch.setattr(tiling, "TILE", 16384)
        monkeypatch.setattr(maps, "PIXELS", 512)
        monkeypatch.setattr(maps, "TAPS", 8)


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """The tile sizes and the number of programs that share a sum as on a GPU."""
    monkeypatch.setattr(tiling, "TILE", 2048)
    monkeypatch.setattr(maps, "PIXELS", 128)
    monkeypatch.setattr(maps, "TAPS", 1)
    monkeypatch.setattr(tiling, "PROGRAMS_PER_PROCESSOR", 4)


def assert_parity(case, device, layout="contiguous", values="normal", seed=0):
    x, grad = tensors(case, seed + 1)
    x, layer = VALUES[values](x), case.layer(seed)
    assert_same(fused_run(layer, x, grad, device, layout), reference_run(layer, x, grad, layout))


@pytest.mark.parametrize("case", TABLE, ids=str)
def test_parity_on_the_table(case, device):
    assert_parity(case, device)


@pytest.mark.parametrize("case", CHANNELS_LAST, ids=str)
def test_parity_on_the_table_in_channels_last(case, device):
    assert_parity(case, device, "channels_last")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", SCAM_CASES[4:5], ids=str)
def test_parity_in_every_layout(case, layout, device):
    assert_parity(case, device, layout)


MIXED = [("contiguous", "channels_last"), ("channels_last", "slice"), ("slice", "expanded")]


@pytest.mark.parametrize("layouts", MIXED, ids="-".join)
def test_a_gradient_in_another_layout(layouts, device):
    case = SCAM_CASES[1]
    x, grad = (LAYOUTS[layout](t) for layout, t in zip(layouts, tensors(case)))
    expected = reference_run(case.layer(), x, grad)
    x, grad = (LAYOUTS[layout](t.to(device)) for layout, t in zip(layouts, tensors(case)))
    actual = run(with_backend(case.layer(), "triton").to(device), x, grad)
    assert_same({name: value.cpu() for name, value in actual.items()}, expected)


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("case", SCAM_CASES[1:2], ids=str)
def test_parity_on_special_values(case, layout, values, device):
    assert_parity(case, device, layout, values)


@pytest.mark.usefixtures("as_on_a_gpu")
def test_short_sums_have_narrow_or_low_tiles_where_these_fill_the_gpu():
    many, few = torch.empty(32, 2048, 10, 10), torch.empty(1, 2048, 10, 10)
    assert [tiling.cut_along(x, 2048, 100) for x in (many, few)] == [(128, 16), (32, 64)]
    assert [tiling.cut_down(x, 100, 2048) for x in (many, few)] == [(128, 16), (64, 32)]
    assert tiling.cut_along(many, 100, 2048) == (32, 64) and tiling.cut_down(many, 2048, 100) == (64, 32)


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("programs", [0, 0.3, 4])
@pytest.mark.parametrize("layout", FORMATS)
def test_programs_that_share_a_sum(programs, layout, device, monkeypatch):
    """With ties: the lowest index wins across programs too."""
    monkeypatch.setattr(tiling, "PROGRAMS_PER_PROCESSOR", programs)
    assert_parity(ScamCase(1, 70, 16, 13, 12, norm="batch"), device, layout, "relu")


@pytest.mark.parametrize("layout", FORMATS)
def test_offsets_of_64_bits(layout, device, monkeypatch):
    monkeypatch.setattr(tiling, "WIDE", 1)
    assert_parity(SCAM_CASES[1], device, layout)


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("programs", [0, 4])
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
def test_pooling_is_torch_max(dtype, layout, programs, device, monkeypatch):
    """The maximum and its index, of ties, infinities and NaN."""
    monkeypatch.setattr(tiling, "PROGRAMS_PER_PROCESSOR", programs)
    x = torch.randint(-2, 3, (6, 70, 5, 13), generator=torch.Generator().manual_seed(0)).to(dtype)
    x[1] = -float("inf")
    x[2, ::3, 2, 4:6], x[2, 1:3, 3, 3:9] = float("nan"), float("inf")
    x[3, :, 1:] = float("nan")
    x[4].mul_(0).neg_()[::2].neg_()  # zeros of both signs are equal
    x[5, 64:, 4, 12] = float("nan")
    x = LAYOUTS[layout](x.to(device))

    gate = torch.rand(6, 70, dtype=torch.float64, device=device).to(accumulation_dtype(dtype))
    gated = (x.to(gate.dtype) * gate[:, :, None, None]).flatten(2)
    expected = x.to(gate.dtype).flatten(2).max(2), gated.max(1)
    for (pooled, position), (top, index) in zip((kernels.pool_pixels(x), kernels.pool_channels(x, gate)), expected):
        assert torch.equal(pooled[1].nan_to_num(nan=1e9), top.nan_to_num(nan=1e9))
        assert torch.equal(position, index)


@pytest.mark.emulated
@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("programs", [0, 4])
@pytest.mark.parametrize("layout", FORMATS)
def test_integers_that_cancel_have_a_mean_of_zero(layout, programs, device, monkeypatch):
    """Exactly: at zero the gradient of ReLU jumps."""
    monkeypatch.setattr(tiling, "PROGRAMS_PER_PROCESSOR", programs)
    x = torch.randint(-4, 5, (2, 70, 13, 17), generator=torch.Generator().manual_seed(0)).float()
    x[:, :, 0, 0] -= x.sum((2, 3))
    x[:, 0] -= x.sum(1)
    x = LAYOUTS[layout](x.to(device))
    assert x.sum((2, 3)).eq(0).all() and x.sum(1).eq(0).all()
    (of_channels, _), (of_pixels, _) = kernels.pool_pixels(x), kernels.pool_channels(x, torch.ones_like(x[:, :, 0, 0]))
    assert of_channels[0].eq(0).all() and of_pixels[0].eq(0).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")], ids=str)
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("case", SCAM_CASES[:2], ids=str)
def test_non_finite_input_spreads_alike(case, layout, value, device):
    x, grad = tensors(case)
    x[0, 1, 2, 3] = value
    expected = reference_run(case.layer(), x, grad, layout)
    actual = fused_run(case.layer(), x, grad, device, layout)
    assert not expected["output"].isfinite().all()
    assert_non_finite_alike(actual, expected)


PRECISION_CASES = [
    ScamCase(2, 48, 8, 9, 13),
    ScamCase(2, 48, 8, 9, 13, mlp_bias=True, norm="batch"),
    ScamCase(2, 48, 8, 9, 13, mlp_bias=True, norm="batch", training=False),
]


@pytest.mark.parametrize(("shift", "layout"), [(0.0, "contiguous"), (3.0, "channels_last")], ids=["centred", "shifted"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", PRECISION_CASES, ids=str)
def test_error_budget(case, dtype, shift, layout, device):
    skip_truncation(dtype, device)
    by_kernels = lambda layer, x, grad: fused_run(layer, x, grad, device, layout)  # noqa: E731
    check_budget(by_kernels, case, dtype, shift, draws=3 if device.type == "cpu" else 24, device="cpu")


@pytest.mark.parametrize("case", SMALL_SCAM, ids=str)
def test_half_precision_input_with_float32_parameters(case, device):
    """All arithmetic is float32: the result is that of a float32 input, rounded when it is stored."""
    layer, (x, grad) = case.layer(dtype=torch.float32), tensors(case, dtype=torch.float16)
    expected = fused_run(layer, x.float(), grad.float(), device)
    expected |= {name: expected[name].half() for name in ("output", "grad x")}
    order_of_sums = 0 if interpreting() else 1e-5  # threads of a GPU load another number of elements
    assert_same(fused_run(layer, x, grad, device), expected, order_of_sums)


def test_autocast_changes_nothing(device):
    for case in SMALL_SCAM:
        layer = with_backend(case.layer(dtype=torch.float32), "triton").to(device)
        x, grad = (t.to(device) for t in tensors(case, dtype=torch.float32))
        plain = run(with_backend(layer, "triton"), x, grad)
        with torch.autocast(device.type, torch.bfloat16):
            inside = run(layer, x, grad)
        assert_same(inside, plain, 0)


def test_eps_keeps_float64_precision(device):
    """A number given to a Triton kernel at run time is a float32, and 0.1 isn't."""
    case = SCAM_CASES[1]
    layer = case.layer()
    layer.spatial.bn.eps = 0.1
    assert_same(fused_run(layer, *tensors(case), device), reference_run(layer, *tensors(case)))


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("case", SMALL_SCAM[1:2], ids=str)
def test_three_runs_are_equal_bit_for_bit(case, layout, device):
    case = case._replace(batch=1, channels=40, height=9, width=8)
    x, grad = tensors(case, dtype=torch.float32)
    first, second, third = (fused_run(case.layer(dtype=torch.float32), x, grad, device, layout) for _ in "123")
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]) and torch.equal(tensor, third[name]), name


FEW = [
    ScamCase(2, 3, 2, 3, 2, kernel_size=3, mlp_bias=True),
    ScamCase(2, 3, 2, 3, 2, kernel_size=3, norm="batch"),
    ScamCase(2, 3, 2, 3, 2, kernel_size=3, norm="batch", training=False),
]


@pytest.mark.parametrize("case", FEW, ids=str)
def test_gradcheck(case, device):
    function, parameters = as_function(with_backend(case.layer(), "triton").to(device))
    x = tensors(case)[0].to(device).requires_grad_()
    assert gradcheck(function, (x, *parameters), check_undefined_grad=False, fast_mode=device.type == "cpu")


@pytest.mark.parametrize("case", FEW, ids=str)
def test_double_backward_equals_the_references(case, device):
    x, grad = tensors(case)
    expected = double_backward(with_backend(case.layer(), "reference"), x, grad)
    actual = double_backward(with_backend(case.layer(), "triton").to(device), x.to(device), grad.to(device))
    assert_same({name: value.cpu() for name, value in actual.items()}, expected)


@pytest.mark.parametrize("case", SMALL_SCAM[1:2], ids=str)
def test_partial_gradients(case, device):
    """Only x, or only some of the parameters, may require a gradient; it is the same one."""
    x, grad = (t.to(device) for t in tensors(case))
    layer = with_backend(case.layer(), "triton").to(device)
    everything = run(layer, x, grad)
    for name, tensor in [("x", x.clone()), *layer.named_parameters()]:
        layer.requires_grad_(False)
        tensor.requires_grad_()
        (of_one,) = torch.autograd.grad(layer(tensor if name == "x" else x), tensor, grad)
        assert torch.equal(of_one, everything[f"grad {name}"])


@pytest.mark.parametrize("layout", FORMATS)
def test_memory_format_and_what_is_saved(layout, device):
    case = ScamCase(2, 32, 4, 9, 8, norm="batch")
    x = LAYOUTS[layout](tensors(case)[0].to(device)).requires_grad_()
    layer = with_backend(case.layer(), "triton").to(device)
    out, saved = saved_tensors(layer, x)
    out.square().sum().backward()
    assert out.stride() == x.grad.stride() == x.stride()
    known = {t.untyped_storage().data_ptr() for t in (x, *layer.parameters(), *layer.buffers())}
    others = [t for t in saved if t.untyped_storage().data_ptr() not in known]
    assert all(t.untyped_storage().data_ptr() != out.untyped_storage().data_ptr() for t in saved)
    # For each channel 2 numbers, a position, a gate; for each pixel 2, a position, a logit; hidden layer; moments.
    assert sum(t.numel() for t in others) == 2 * (4 * 32 + 4 * 72 + 2 * 8) + 2


def test_changing_the_output_is_fine_and_changing_the_input_an_error(device):
    case = SMALL_SCAM[0]
    x, grad = (t.to(device) for t in tensors(case))
    layer = with_backend(case.layer(), "triton").to(device)
    expected = run(layer, x, grad)
    given = x.clone().requires_grad_()
    out = layer(given)
    out += 1
    out.backward(grad)
    assert torch.equal(given.grad, expected["grad x"]) and torch.equal(given, x)
    given = x.clone().requires_grad_() * 1
    out = layer(given)
    given += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward(grad)


seeds = st.integers(0, 2**16)


@pytest.mark.interpreted
@settings(max_examples=12)
@given(scam_cases(), st.sampled_from(sorted(LAYOUTS)), st.sampled_from(sorted(VALUES)), seeds, st.booleans())
def test_parity_on_drawn_cases(device, case, layout, values, seed, share):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiling, "PROGRAMS_PER_PROCESSOR", 4 if share else 0)
        assert_parity(case, device, layout, values, seed)


@pytest.mark.parametrize("path", [path for path in GOLDEN if path.stem.startswith("scam")], ids=lambda path: path.stem)
def test_matches_the_published_module(path, device):
    stored, metadata = load(path)
    layer = build(metadata, stored["x"].shape[1], "triton")
    layer.load_state_dict({name.removeprefix("param."): t for name, t in stored.items() if name.startswith("param.")})
    outcome = fused_run(layer.train(metadata["mode"] == "train"), stored["x"], stored["grad_output"], device)
    outcome.pop("after spatial.bn.num_batches_tracked")
    assert_same(outcome, expected_outcome(stored))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("options", [{}, {"mlp_bias": True}, {"kernel": 3}], ids=["default", "mlp_bias", "kernel3"])
@pytest.mark.parametrize("shape", [(1, 48, 19, 19, 3)], ids=str)
def test_matches_timms_module(shape, options, training, device):
    *size, reduction = shape
    kernel, bias = options.get("kernel", 7), options.get("mlp_bias", False)
    module = timms(size[1], reduction, spatial_kernel_size=kernel, mlp_bias=bias).train(training)
    layer = ours(module, size[1], reduction, kernel_size=kernel, mlp_bias=bias).train(training)
    x, grad = torch.randn(2, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = in_our_terms(run(module, x, grad))
    assert_same(fused_run(layer, x, grad, device), expected)


OPCHECKS = [
    (SMALL_SCAM[1], "contiguous"),
    (SMALL_SCAM[2], "channels_last"),
    (SMALL_SCAM[0], "permuted"),
    (ScamCase(0, 8, 4, 3, 3), "contiguous"),
    (ScamCase(2, 1, 1, 1, 3), "strided"),
]


@pytest.mark.parametrize(("case", "layout"), OPCHECKS, ids=str)
def test_opcheck(case, layout, device):
    maps = (t.to(device) for t in tensors(case, dtype=torch.float16))
    x, grad = (LAYOUTS[layout](t) if t.numel() else t for t in maps)
    opcheck(case, case.layer(dtype=torch.float16).to(device), x, grad, "_fused")


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("case", SMALL_SCAM[:2], ids=str)
def test_compiled_gradients_are_eagers(case, device):
    x, grad = (t.to(device) for t in tensors(case))
    eager, compiled = (Block(with_backend(case.layer(), "triton"), case.channels).to(device) for _ in "12")
    compiled.compile(fullgraph=True, backend="aot_eager")
    assert_same(run(compiled, x, grad), run(eager, x, grad))


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("case", SMALL_SCAM[1:2], ids=str)
def test_new_sizes_compile_nothing_new(case, device):
    sizes = [(2, 5, 4), (3, 5, 4), (3, 9, 11), (4, 13, 12)]
    assert_one_compilation_serves(sizes, case, "triton", device)


def test_a_map_of_too_many_pixels_is_refused():
    x = torch.empty(1).expand(1, 1, 2**16, 2**15)
    with pytest.raises(ValueError, match="maps of less than 1908870256 pixels"):
        fused.forward(x, None, None, False, 1e-5)
