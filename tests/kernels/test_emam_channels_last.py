"""EMAM's kernels for channels_last: the reference's numbers, in the input's memory format, whatever the shape."""

from collections import defaultdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from panet_layers.ops.emam import fused, nchw, nhwc
from tests.layers.cases import (
    LOW_PRECISION,
    EmamCase,
    assert_same,
    interpreted,
    poisoned_memory,
    run,
    tensors,
    with_backend,
)
from tests.layers.test_precision import lowered, plain_run

LAUNCHERS = ("pool", "moments", "attend", "delta", "contract", "input_gradient")
SHAPES = [
    EmamCase(1, 6, 3, 9, 9),  # several blocks of columns, two chunks of rows, three groups where four have room
    EmamCase(2, 10, 2, 5, 4),
    EmamCase(1, 182, 2, 2, 3),  # 91 channels: the second group starts inside a vector
    EmamCase(1, 6, 1, 3, 7),
    EmamCase(2, 4, 4, 3, 2),  # one channel a group
    EmamCase(2, 6, 2, 1, 9),
    EmamCase(1, 6, 2, 9, 1),
    EmamCase(2, 6, 2, 1, 1),
    EmamCase(0, 8, 2, 3, 4),
]
SMALL = EmamCase(2, 6, 2, 3, 5)
ODD_VECTORS = EmamCase(1, 54, 2, 2, 5)  # vectors of two, groups of 27


def channels_last(*maps):
    return [t.contiguous(memory_format=torch.channels_last) for t in maps]


def both(case, x, grad, device):
    """What the kernels give, on memory that is NaN until written, and the reference."""
    layer, x, grad = case.layer().to(device), x.to(device), grad.to(device)
    expected = run(with_backend(layer, "reference"), x, grad)
    with poisoned_memory():
        return run(with_backend(layer, "triton"), x, grad), expected


@pytest.mark.parametrize("case", interpreted(SHAPES, on_gpus={0, 2, 4, 7, 8}), ids=str)
def test_equal_to_the_reference(case, device):
    actual, expected = both(case, *channels_last(*tensors(case)), device)
    assert_same(actual, expected)
    for name in ("output", "grad x"):
        assert actual[name].is_contiguous(memory_format=torch.channels_last)


def test_these_kernels_run(device, monkeypatch):
    """And not, unnoticed, those for any strides."""
    launched = []
    for name in LAUNCHERS:
        launch = getattr(nhwc, name)
        record = lambda *a, name=name, launch=launch: [launched.append(name), launch(*a)]  # noqa: E731
        monkeypatch.setattr(nhwc, name, record)
    both(SMALL, *channels_last(*tensors(SMALL)), device)
    assert launched == list(LAUNCHERS)


@pytest.mark.parametrize("layout", ["contiguous", "expanded", "sliced"])
def test_gradients_of_any_layout(layout, device):
    x, grad = channels_last(*tensors(SMALL))
    if layout == "contiguous":
        grad = grad.contiguous()
    elif layout == "expanded":
        grad = torch.tensor(0.7, dtype=grad.dtype).expand_as(grad)
    else:
        grad = torch.cat([grad, grad], 1)[:, 3:9]
    assert_same(*both(SMALL, x, grad, device))


CUTS = [(slice(None, None, 2),), (slice(None), slice(1, 7)), (..., slice(3), slice(1, 4))]


@pytest.mark.parametrize("cut", CUTS, ids=["batch", "channels", "pixels"])
def test_slices_of_a_larger_map(cut, device):
    """Strides are the larger map's; only the channels must lie side by side."""
    larger = torch.randn(3, 8, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    x = larger.to(device, memory_format=torch.channels_last)[cut]
    case = EmamCase(x.shape[0], x.shape[1], 2, *x.shape[2:])
    actual, expected = both(case, x, tensors(case)[1], device)
    assert_same(actual, expected)
    assert actual["output"].is_contiguous(memory_format=torch.channels_last)


def test_channels_last_or_not():
    """Only where the output, which torch lays out, has channels innermost as well."""
    x = torch.empty(2, 6, 3, 5).contiguous(memory_format=torch.channels_last)
    chosen = [x, x[:1], x[::2], x[:, 2:5], x[:, :, 1:], x[..., 1:3], x[:, :, :1, :1], x[:1].expand(4, 6, 3, 5)]
    left = [x.contiguous(), x[:, :1], x[..., :1].expand_as(x), x[:, :, :1, :1].expand_as(x), x.permute(0, 2, 1, 3)]
    assert all(fused._kernels(t) is nhwc and torch.empty_like(t).stride(1) == 1 for t in chosen)
    assert all(fused._kernels(t) is nchw for t in left)


def test_the_same_bits_every_time(device):
    case = EmamCase(1, 2, 1, 9, 9)
    layer = with_backend(case.layer(dtype=torch.float32), "triton").to(device)
    x, grad = (t.to(device) for t in channels_last(*tensors(case, dtype=torch.float32)))
    first, second = run(layer, x, grad), run(layer, x, grad)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=str)
def test_error_budget(dtype, device):
    """At most twice as far from the float64 answer as the plain formulas in that precision, plus a rounding."""
    if dtype == torch.bfloat16 and device.type == "cpu":
        pytest.skip("the interpreter truncates where a GPU rounds to bfloat16")
    actual, allowed = defaultdict(float), defaultdict(float)
    for seed in range(3):
        low, high = lowered(ODD_VECTORS, dtype, shift=1.0, seed=seed)
        (layer, *maps), high = ([part.to(device) for part in parts] for parts in (low, high))
        exact, plain = run(*high), plain_run(layer, *maps)
        for name, value in run(with_backend(layer, "triton"), *channels_last(*maps)).items():
            assert value.dtype == dtype, name
            actual[name] += (value - exact[name]).double().norm().item()
            rounding = torch.finfo(dtype).eps * exact[name].norm().item()
            allowed[name] += 2 * (plain[name] - exact[name]).norm().item() + rounding
    assert {name: (value, allowed[name]) for name, value in actual.items() if value > allowed[name]} == {}


def test_a_large_offset_in_float32(device):
    """Variances are of centred values: an offset of 1000 standard deviations costs digits, not the answer."""
    case = EmamCase(1, 2, 1, 9, 9)
    layer = case.layer().to(device)
    with torch.no_grad():
        layer.conv1x1.weight.mul_(1e-4)
    (x,) = channels_last(tensors(case)[0].to(device) + 1000)
    exact = with_backend(layer, "reference")(x)
    single = with_backend(layer, "triton").float()(x.float())
    plain = with_backend(layer, "reference").float()(x.float())
    assert (single - exact).norm() <= 2 * (plain - exact).norm() + 1e-7 * exact.norm()


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_group_keeps_its_infinities_to_itself(device):
    """Though a tile reads its neighbours' channels where a group starts inside a vector."""
    layer = with_backend(ODD_VECTORS.layer(dtype=torch.float32), "triton").to(device)
    x, grad = (t.to(device) for t in channels_last(*tensors(ODD_VECTORS, dtype=torch.float32)))
    spoilt = x.clone(memory_format=torch.preserve_format)
    spoilt[:, 27:] = float("inf")
    clean, outcome = run(layer, x, grad), run(layer, spoilt, grad)
    for name in ("output", "grad x"):
        assert torch.equal(outcome[name][:, :27], clean[name][:, :27])
        assert not outcome[name][:, 27:].isfinite().any()


@pytest.mark.xdist_group("most of the GPU's memory")
def test_more_numbers_than_32_bits_count(device):
    """Two samples 2^31 numbers apart, in memory that is reserved and hardly touched."""
    case = EmamCase(2, 4, 2, 2, 3)
    dense, grad = (t.to(device) for t in channels_last(*tensors(case, dtype=torch.float16)))
    x = torch.empty(2**31 + 64, dtype=torch.float16, device=device).as_strided((2, 4, 2, 3), (2**31, 1, 12, 4))
    x.copy_(dense)
    layer = with_backend(case.layer(dtype=torch.float32), "triton").to(device)
    assert_same(run(layer, x, grad), run(layer, dense, grad), 0)


@pytest.mark.interpreted
@settings(max_examples=4)
@given(st.integers(1, 2), st.integers(1, 3), st.integers(1, 5), st.integers(1, 4), st.integers(1, 6))
def test_any_shape(device, batch, groups, k, height, width):
    case = EmamCase(batch, groups * k, groups, height, width)
    assert_same(*both(case, *channels_last(*tensors(case)), device))


def test_opcheck(device):
    """What is saved has the strides that tracing expects."""
    layer = SMALL.layer(dtype=torch.float32)
    maps = channels_last(*tensors(SMALL, dtype=torch.float32))
    x, grad, *parameters = (t.detach().to(device) for t in (*maps, *layer.parameters()))
    forward = (x, *parameters, SMALL.groups, layer.eps)
    _, *saved = torch.ops.panet_layers.emam_fused_forward(*forward)
    torch.library.opcheck(torch.ops.panet_layers.emam_fused_forward.default, forward)
    backward = (grad, x, *parameters, *saved, SMALL.groups)
    torch.library.opcheck(torch.ops.panet_layers.emam_fused_backward.default, backward)


def test_compiled_gradients_are_eagers(device):
    torch._dynamo.reset()
    eager = with_backend(SMALL.layer(), "triton").to(device)
    layer = with_backend(SMALL.layer(), "triton").to(device)
    layer.compile(fullgraph=True, backend="aot_eager", dynamic=True)
    for i, (height, width) in enumerate([(3, 4), (2, 5)]):
        x, grad = (t.to(device) for t in channels_last(*tensors(SMALL._replace(height=height, width=width))))
        with torch._dynamo.config.patch(error_on_recompile=i > 0):
            compiled = run(layer, x, grad)
        assert_same(compiled, run(eager, x, grad))
    torch._dynamo.reset()


@pytest.mark.parametrize("k", [1, 8, 91, 256])
def test_a_new_image_size_compiles_little(k):
    """What is compiled into the code takes a handful of values over all image sizes."""
    variants = set()
    for size in range(1, 300):
        x = torch.empty(4, 2 * k, size, size, device="meta", dtype=torch.float16).to(memory_format=torch.channels_last)
        tiling = nhwc.tiling.tiling(x, k)
        variants.add((tiling.KB, tiling.GB, tiling.WB, tiling.VEC, tiling.warps))
    assert len(variants) <= 5
