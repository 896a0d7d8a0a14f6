"""How the kernels of CUDA C cut their work: within what a device allows, and covering the map."""

from random import Random

import pytest
import torch

from panet_layers.ops.emam.cuda import backward, planning
from panet_layers.ops.emam.cuda import forward as cuda
from panet_layers.ops.emam.cuda.starting import Start

LIMITS = {"8.0": 163 << 10, "8.6": 99 << 10, "9.0": 227 << 10}
PANET = [(91, 19, 19), (32, 37, 37), (8, 147, 147), (256, 10, 10), (8, 56, 56), (91, 38, 38), (16, 74, 74)]
ODD = [(1, 1, 1), (4, 1, 37), (4, 37, 1), (3, 5, 7), (1, 13, 17), (91, 3, 5), (300, 3, 66), (12, 150, 150)]


@pytest.mark.parametrize("shape", [*PANET, *ODD], ids=str)
@pytest.mark.parametrize("limit", LIMITS.values(), ids=LIMITS)
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("baked", [True, False], ids=["baked", "any size"])
def test_plans_keep_to_the_devices_limits_and_cover_the_map(shape, limit, size, baked):
    k, height, width = shape
    plans = [planning.planes(8 * k, height, width, size, limit, moments, baked) for moments in (False, True)]
    for plan in filter(None, plans):
        assert plan.parts <= height and plan.columns * -(-width // plan.columns) >= width
    resident, bands = (plan(k, height, width, size, limit, baked) for plan in (planning.resident, planning.bands))
    for plan in filter(None, [*plans, resident, bands]):
        assert plan.shared <= limit and plan.threads <= planning.MOST_THREADS[baked] and plan.threads % 32 == 0
    if resident:
        assert 1 <= resident.shares * -(-height // resident.strip) * width <= resident.threads
    if bands:
        assert 1 <= bands.shares * bands.stack * width <= bands.threads
        assert (bands.bands - 1) * bands.own < height <= bands.bands * bands.own
        assert bands.own <= bands.own_strip * bands.stack and bands.own_strip <= bands.strip
        rows = bands.stack * bands.strip
        assert rows >= height if bands.bands == 1 else rows >= bands.own + 2


def test_an_instance_of_panet_fits_on_the_newer_part_only():
    fits = {name: planning.resident(32, 37, 37, 4, limit) is not None for name, limit in LIMITS.items()}
    assert fits == {"8.0": False, "8.6": False, "9.0": True}
    assert planning.bands(32, 37, 37, 4, LIMITS["8.0"]) is not None


def test_the_largest_shape_of_panet_goes_by_bands():
    assert planning.resident(8, 147, 147, 2, LIMITS["9.0"]) is None
    kernels = cuda._plan(256, 8, 147, 147, torch.bfloat16, LIMITS["9.0"], True)
    assert list(kernels) == ["pool", "moments", "band"]


@pytest.mark.parametrize("moments", [False, True])
def test_of_the_largest_planes_of_panet_a_processor_holds_16_warps_with_a_task_for_each_thread(moments):
    plan = planning.planes(2048, 147, 147, 2, LIMITS["9.0"], moments, False)
    held = (LIMITS["9.0"] + planning.RESERVED) // (plan.shared + planning.RESERVED)
    assert held * plan.threads >= 16 * 32 and plan.parts * -(-147 // plan.columns) <= plan.threads


def test_planes_that_are_too_large_are_named_with_their_size():
    with pytest.raises(cuda.TooLarge, match=r"8 channels with maps of 900 x 900 of 4 bytes.*232448 bytes"):
        cuda._plan(1, 8, 900, 900, torch.float32, LIMITS["9.0"], True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_map_that_the_backward_does_not_take_is_refused_before_the_forward(dtype):
    assert cuda._plan(8, 2, 4, 512, dtype, LIMITS["9.0"], True)
    with pytest.raises(cuda.TooLarge, match="maps of width 512 at most, got 4 x 513; use 'triton' or 'auto'"):
        cuda._plan(8, 2, 4, 513, dtype, LIMITS["9.0"], True)


def test_sizes_that_the_backward_cannot_count_are_refused_before_the_forward():
    with pytest.raises(cuda.TooLarge, match="in 32 bits; 67108864 groups of 1 channels with maps of 1 x 40 have more"):
        cuda._plan(2**26, 1, 1, 40, torch.bfloat16, LIMITS["9.0"], True)


def test_more_planes_than_32_bits_count_are_named():
    with pytest.raises(cuda.TooLarge, match="2147483647 planes at most, got 2147483648"):
        cuda._plan(2**31, 1, 1, 1, torch.bfloat16, LIMITS["9.0"], True)


def test_the_batch_needs_no_other_kernels():
    one, many = (cuda._plan(n, 91, 19, 19, torch.bfloat16, LIMITS["9.0"], True) for n in (64, 256))
    assert [start.kernel for start in one.values()] == [start.kernel for start in many.values()]


def drawn_shapes(count: int) -> list[tuple[int, int, int]]:
    """(K, H, W) with sides of 2 to 200; fewer channels where the map is large, as shared memory has to hold a band."""
    random, shapes = Random(0), []
    for _ in range(count):
        height = int(2 ** random.uniform(1, 7.2))
        width = int(height * random.choice([1, 1, 0.75, 1.33]))
        shapes.append((int(2 ** random.uniform(0, 11 - height.bit_length())), height, width))
    return shapes


def compilations(shapes, baked, dtype=torch.bfloat16):
    """How many kernels these shapes need, forward and backward."""
    kernels = set()
    for k, height, width in shapes:
        kernels |= {start.kernel for start in cuda._plan(8, k, height, width, dtype, LIMITS["9.0"], baked).values()}
        of_backward = backward._plan(backward.Shape(8, k, height, width), dtype, LIMITS["9.0"], 8, baked)
        kernels |= {part.kernel for part in of_backward if isinstance(part, Start)}
    return len(kernels)


def test_shapes_after_the_first_ones_share_a_few_kernels():
    """At most 24 of a dtype: 2 of each of the forward's, 8 of delta, 4 of contract, 2 of input_gradient, 2 others."""
    shapes = drawn_shapes(40)
    assert compilations(shapes, baked=False) <= 24 and compilations(shapes[:8], baked=True) > 40
