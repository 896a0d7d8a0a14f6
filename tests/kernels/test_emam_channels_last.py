"""EMAM's kernels for channels_last: the reference's numbers, in the input's memory format, whatever the shape."""

import pytest
import torch
from cases import EXACT, EmamCase, assert_same, poisoned_memory, run, tensors, with_backend
from hypothesis import given, settings
from hypothesis import strategies as st

from panet_layers.ops import fusion
from panet_layers.ops.emam import reference

kernels = pytest.importorskip("panet_layers.ops.emam.kernels_channels_last")

pytestmark = pytest.mark.skipif(not fusion.INTERPRETING, reason="needs TRITON_INTERPRET=1")

SHAPES = [
    EmamCase(1, 6, 3, 9, 9),  # several blocks of columns and chunks of rows; three groups where four have room
    EmamCase(2, 10, 2, 5, 4),
    EmamCase(1, 182, 2, 2, 3),  # 91 channels: the second group starts inside a vector
    EmamCase(1, 6, 1, 3, 7),
    EmamCase(2, 4, 4, 3, 2),  # one channel a group
    EmamCase(2, 6, 2, 1, 9),
    EmamCase(2, 6, 2, 9, 1),
    EmamCase(2, 6, 2, 1, 1),
]
ODD_VECTORS = EmamCase(1, 54, 2, 2, 5)  # vectors of two in float32, groups of 27


def channels_last(*maps):
    return [t.contiguous(memory_format=torch.channels_last) for t in maps]


def both(case, x, grad):
    """What the kernels give, on memory that is NaN until written, and the reference."""
    layer = case.layer()
    expected = run(with_backend(layer, "reference"), x, grad)
    with poisoned_memory():
        return run(with_backend(layer, "triton"), x, grad), expected


@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_equal_to_the_reference(case):
    actual, expected = both(case, *channels_last(*tensors(case)))
    assert_same(actual, expected, EXACT)
    for name in ("output", "grad x"):
        assert actual[name].is_contiguous(memory_format=torch.channels_last)


def test_these_kernels_run(monkeypatch):
    """And not, unnoticed, those for any strides."""
    launched = []
    for name in ("pool", "moments", "attend", "delta", "contract", "input_gradient"):
        launch = getattr(kernels, name)
        monkeypatch.setattr(kernels, name, lambda *a, name=name, launch=launch: [launched.append(name), launch(*a)])
    case = EmamCase(1, 4, 2, 2, 3)
    both(case, *channels_last(*tensors(case)))
    assert launched == ["pool", "moments", "attend", "delta", "contract", "input_gradient"]


@pytest.mark.parametrize("layout", ["contiguous", "expanded", "sliced"])
def test_gradients_of_any_layout(layout):
    case = EmamCase(2, 8, 2, 3, 5)
    x, grad = channels_last(*tensors(case))
    if layout == "contiguous":
        grad = grad.contiguous()
    elif layout == "expanded":
        grad = torch.tensor(0.7, dtype=grad.dtype).expand_as(grad)
    else:
        grad = torch.cat([grad, grad], 1)[:, 3:11]
    assert_same(*both(case, x, grad))


@pytest.mark.parametrize(
    "cut",
    [(slice(None, None, 2),), (slice(None), slice(1, 7)), (..., slice(1, 4)), (..., slice(2), slice(None))],
    ids=str,
)
def test_slices_of_a_larger_map(cut):
    """Strides are the map's own; only the channels must lie side by side."""
    larger = torch.randn(3, 8, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    x = larger.contiguous(memory_format=torch.channels_last)[cut]
    case = EmamCase(x.shape[0], x.shape[1], 2, *x.shape[2:])
    actual, expected = both(case, x, tensors(case)[1])
    assert_same(actual, expected)
    assert actual["output"].is_contiguous(memory_format=torch.channels_last)


def test_a_batch_of_none():
    case = EmamCase(0, 8, 2, 3, 4)
    assert_same(*both(case, *channels_last(*tensors(case))))


def test_the_same_bits_every_time():
    case = EmamCase(1, 2, 1, 9, 9)
    layer = with_backend(case.layer(dtype=torch.float32), "triton")
    x, grad = channels_last(*tensors(case, dtype=torch.float32))
    first, second = run(layer, x, grad), run(layer, x, grad)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_error_budget(dtype):
    """At most twice as far from the float64 answer as the plain formulas in that precision, plus a rounding."""
    square = {"actual": {}, "plain": {}, "rounding": {}}
    for seed in range(3):
        layer = ODD_VECTORS.layer(seed, dtype=dtype)
        x, grad = channels_last(*(t + 1 for t in tensors(ODD_VECTORS, seed + 1, dtype)))
        exact = run(with_backend(layer, "reference").double(), x.double(), grad.double())
        outcome = {"actual": run(with_backend(layer, "triton"), x, grad), "plain": run(Plain(layer), x, grad)}
        for name, value in exact.items():
            distances = {kind: (result[name] - value) for kind, result in outcome.items()}
            distances["rounding"] = torch.finfo(dtype).eps * value
            for kind, distance in distances.items():
                square[kind][name] = square[kind].get(name, 0) + distance.double().square().sum().item()
    for name, actual in square["actual"].items():
        assert actual**0.5 <= 2 * square["plain"][name] ** 0.5 + square["rounding"][name] ** 0.5, name


class Plain(torch.nn.Module):
    """The plain formulas in the precision of the tensors, no float32 anywhere."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return reference.emam(x, *self.layer.parameters(), self.layer.groups, self.layer.eps)

    def named_parameters(self, *args, **kwargs):
        return self.layer.named_parameters(*args, **kwargs)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_group_keeps_its_infinities_to_itself():
    """Though a tile reads its neighbours' channels where a group starts inside a vector."""
    layer = with_backend(ODD_VECTORS.layer(dtype=torch.float32), "triton")
    x, grad = channels_last(*tensors(ODD_VECTORS, dtype=torch.float32))
    spoilt = x.clone(memory_format=torch.preserve_format)
    spoilt[:, 27:] = float("inf")
    clean, outcome = run(layer, x, grad), run(layer, spoilt, grad)
    for name in ("output", "grad x"):
        assert torch.equal(outcome[name][:, :27], clean[name][:, :27])
        assert not outcome[name][:, 27:].isfinite().any()


def test_more_numbers_than_32_bits_count():
    """Two samples 2^31 numbers apart, in memory that is reserved and never touched."""
    case = EmamCase(2, 4, 2, 2, 3)
    room = torch.empty(2**31 + 64, dtype=torch.float16)
    x = room.as_strided((2, 4, 2, 3), (2**31, 1, 12, 4))
    dense, grad = channels_last(*tensors(case, dtype=torch.float16))
    x.copy_(dense)
    layer = with_backend(case.layer(dtype=torch.float32), "triton")
    assert_same(run(layer, x, grad), run(layer, dense, grad), 0)


@settings(max_examples=4)
@given(
    st.integers(1, 2), st.integers(1, 3), st.integers(1, 5), st.integers(1, 4), st.integers(1, 6), st.integers(0, 99)
)
def test_any_shape(batch, groups, k, height, width, seed):
    case = EmamCase(batch, groups * k, groups, height, width)
    assert_same(*both(case, *channels_last(*tensors(case, seed))))


def test_what_is_saved_has_the_layout_that_tracing_expects():
    case = EmamCase(2, 8, 2, 3, 5)
    (x,) = channels_last(tensors(case)[0])
    arguments = (x, *case.layer().parameters(), case.groups, 1e-5)
    torch.library.opcheck(torch.ops.panet_layers.emam_fused_forward, arguments, test_utils=("test_faketensor",))


@pytest.mark.parametrize("k", [1, 8, 91, 256])
def test_a_new_image_size_compiles_little(k):
    """What is compiled into the code takes a handful of values over all image sizes."""
    variants = set()
    for size in range(1, 300):
        x = torch.empty(4, 2 * k, size, size, device="meta", dtype=torch.float16).to(memory_format=torch.channels_last)
        tiling = kernels._tiling(x, k)
        variants.add((tiling.KB, tiling.GB, tiling.WB, tiling.VEC, tiling.warps))
    assert len(variants) <= 5
