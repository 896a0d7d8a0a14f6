"""EMAM's Triton kernels on channels_last maps: the reference's numbers, in the input's memory format, for any shape."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from panet_layers.ops.emam import triton as kernels
from panet_layers.ops.emam.tensors import channels_last as is_channels_last
from panet_layers.ops.emam.triton import tiling
from tests.kernels.helpers import check_budget, check_large_offset, outcomes, skip_truncation
from tests.layers.cases import (
    LOW_PRECISION,
    EmamCase,
    assert_one_compilation_serves,
    assert_same,
    interpreted,
    run,
    tensors,
    with_backend,
)
from tests.layers.operators import opcheck

LAUNCHERS = ("pool", "moments", "attend", "delta", "contract", "input_gradient")
SHAPES = [
    EmamCase(1, 6, 3, 9, 9),  # several blocks of columns, two chunks of rows, three groups in a block for four
    EmamCase(2, 10, 2, 5, 4),
    EmamCase(1, 182, 2, 2, 3),  # 91 channels: the second group starts inside a vector
    EmamCase(1, 6, 1, 3, 7),
    EmamCase(2, 4, 4, 3, 2),  # one channel in a group
    EmamCase(2, 6, 2, 1, 9),
    EmamCase(1, 6, 2, 9, 1),
    EmamCase(2, 6, 2, 1, 1),
    EmamCase(0, 8, 2, 3, 4),
]
SMALL = EmamCase(2, 6, 2, 3, 5)
ODD_VECTORS = EmamCase(1, 54, 2, 2, 5)  # vectors of two, groups of 27


def channels_last(*maps):
    return [t.contiguous(memory_format=torch.channels_last) for t in maps]


@pytest.mark.parametrize("case", interpreted(SHAPES, on_gpus={0, 2, 4, 7, 8}), ids=str)
def test_equal_to_the_reference(case, device):
    actual, expected = outcomes(case.layer(), *channels_last(*tensors(case)), device)
    assert_same(actual, expected)
    for name in ("output", "grad x"):
        assert actual[name].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("layout", ["channels_last", "contiguous"])
def test_what_the_kernels_read(layout, device, monkeypatch):
    """The map itself in channels_last; else one copy in each direction, and of the gradient another."""
    x, grad = (t.to(device) for t in tensors(SMALL))
    if layout == "channels_last":
        x, grad = channels_last(x, grad)
    read = {}
    for name in LAUNCHERS:
        launch = getattr(kernels, name)
        record = lambda *maps, name=name, launch=launch: [read.update({name: maps[:2]}), launch(*maps)]  # noqa: E731
        monkeypatch.setattr(kernels, name, record)
    layer = with_backend(SMALL.layer(), "triton").to(device)
    layer(x.requires_grad_()).backward(grad)
    assert list(read) == list(LAUNCHERS)
    forward = [read[name][0] for name in LAUNCHERS[:3]]
    backward = [read["delta"][1], read["contract"][0], read["input_gradient"][1]]
    gradients = [read["delta"][0], read["input_gradient"][0]]
    for theirs, maps in ((x, forward), (x, backward), (grad, gradients)):
        assert len({t.data_ptr() for t in maps}) == 1 and all(is_channels_last(t) for t in maps)
        assert (maps[0].data_ptr() == theirs.data_ptr()) == (layout == "channels_last")


@pytest.mark.parametrize("layout", ["contiguous", "expanded", "sliced"])
def test_gradients_of_any_layout(layout, device):
    x, grad = channels_last(*tensors(SMALL))
    if layout == "contiguous":
        grad = grad.contiguous()
    elif layout == "expanded":
        grad = torch.tensor(0.7, dtype=grad.dtype).expand_as(grad)
    else:
        grad = torch.cat([grad, grad], 1)[:, 3:9]
    assert_same(*outcomes(SMALL.layer(), x, grad, device))


CUTS = [(slice(None, None, 2),), (slice(None), slice(1, 7)), (..., slice(3), slice(1, 4))]


@pytest.mark.parametrize("cut", CUTS, ids=["batch", "channels", "pixels"])
def test_slices_of_a_larger_map(cut, device):
    """Strides are the larger map's; only the channels must be neighbours in memory."""
    larger = torch.randn(3, 8, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    x = larger.to(device, memory_format=torch.channels_last)[cut]
    case = EmamCase(x.shape[0], x.shape[1], 2, *x.shape[2:])
    actual, expected = outcomes(case.layer(), x, tensors(case)[1], device)
    assert_same(actual, expected)
    assert actual["output"].is_contiguous(memory_format=torch.channels_last)


def test_windows_over_channels(device):
    """Neighbouring samples share all channels but one."""
    larger = channels_last(tensors(EmamCase(1, 5, 1, 3, 4))[0])[0]
    x = larger.to(device)[0].unfold(0, 4, 1).permute(0, 3, 1, 2)
    case = EmamCase(2, 4, 2, 3, 4)
    assert x.stride() == (1, 1, 20, 5)
    assert_same(*outcomes(case.layer(), x, tensors(case)[1], device))


@pytest.mark.emulated
def test_a_slice_of_channels_is_read_to_its_end_and_no_further(device):
    """Pixels begin at multiples of four, but two of the 70 channels are left over after the last of these vectors."""
    case = EmamCase(1, 70, 2, 2, 3)
    x, grad = channels_last(*tensors(case, dtype=torch.float32))
    storage = torch.empty(5 * 72 + 70).as_strided(x.shape, (6 * 72, 1, 3 * 72, 72)).copy_(x)
    assert_same(*outcomes(case.layer(dtype=torch.float32), storage, grad, device), 1e-4)


def test_which_maps_count_as_channels_last():
    """Only those whose output, in torch's layout, has channels innermost too."""
    x = torch.empty(2, 6, 3, 5).contiguous(memory_format=torch.channels_last)
    chosen = [x, x[:1], x[::2], x[:, 2:5], x[:, :, 1:], x[..., 1:3], x[:, :, :1, :1], x[:1].expand(4, 6, 3, 5)]
    windows = x[0].unfold(0, 4, 1).permute(0, 3, 1, 2)
    left = [
        windows,
        x.contiguous(),
        x[:, :1],
        x[..., :1].expand_as(x),
        x[:, :, :1, :1].expand_as(x),
        x.permute(0, 2, 1, 3),
    ]
    assert all(is_channels_last(t) and torch.empty_like(t).stride(1) == 1 for t in chosen)
    assert not any(map(is_channels_last, left))


def test_the_same_bits_every_time(device):
    case = EmamCase(1, 2, 1, 9, 9)
    layer = with_backend(case.layer(dtype=torch.float32), "triton").to(device)
    x, grad = (t.to(device) for t in channels_last(*tensors(case, dtype=torch.float32)))
    first, second = run(layer, x, grad), run(layer, x, grad)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("dtype", LOW_PRECISION, ids=str)
def test_error_budget(dtype, device):
    skip_truncation(dtype, device)
    by_kernels = lambda layer, x, grad: run(with_backend(layer, "triton"), *channels_last(x, grad))  # noqa: E731
    check_budget(by_kernels, ODD_VECTORS, dtype, 1.0, draws=3, device=device)


def test_a_large_offset_in_float32(device):
    check_large_offset(EmamCase(1, 2, 1, 9, 9), torch.channels_last, device)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_group_keeps_its_infinities_to_itself(device):
    """Although a tile reads channels of the next groups where a group starts inside a vector."""
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
    assert_same(*outcomes(case.layer(), *channels_last(*tensors(case)), device))


def test_opcheck(device):
    """The saved tensors have the strides of the fake ones."""
    x, grad = (t.to(device) for t in channels_last(*tensors(SMALL, dtype=torch.float32)))
    opcheck(SMALL, SMALL.layer(dtype=torch.float32).to(device), x, grad, "_fused")


@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_gradients_are_eagers(device):
    assert_one_compilation_serves([(2, 3, 4), (2, 2, 5)], SMALL, "triton", device, torch.channels_last)


@pytest.mark.parametrize("k", [1, 8, 91, 256])
def test_a_new_image_size_compiles_little(k):
    """The compiled-in constants take few values over all image sizes."""
    variants = {"channels": set(), "groups": set(), "fold": set()}
    for size in range(1, 300):
        x = torch.empty(4, 2 * k, size, size, device="meta", dtype=torch.float16).to(memory_format=torch.channels_last)
        found = {"channels": tiling.channel_tiling(x), "groups": tiling.group_tiling(x, k)}
        found["fold"] = tiling.fold(found["groups"], size, size)
        for name, t in found.items():
            variants[name].add((*map(str, t.constants.values()), t.warps))
    assert all(len(of_kernel) <= 5 for of_kernel in variants.values())
