"""How the backward's kernels of CUDA C cut their work: within what a device allows, and covering the map."""

import pytest

from panet_layers.ops.emam.cuda import backward_plans as plans
from panet_layers.ops.emam.cuda.backward_plans import blocks_of, contract_plan, delta_plan, gradient_plan

LIMITS = {"8.0": 163 << 10, "8.6": 99 << 10, "9.0": 227 << 10}
PANET = [(91, 19, 19), (32, 37, 37), (8, 147, 147), (256, 10, 10), (8, 56, 56), (91, 38, 38), (16, 74, 74)]
ODD = [(1, 1, 1), (4, 1, 37), (4, 37, 1), (3, 5, 7), (1, 13, 17), (91, 3, 5), (300, 3, 66), (12, 150, 150), (8, 9, 512)]
SHAPES = pytest.mark.parametrize("shape", [*PANET, *ODD], ids=str)
BAKED = pytest.mark.parametrize("baked", [True, False], ids=["baked", "any size"])
SIZES = pytest.mark.parametrize("size", [2, 4])


@SHAPES
@SIZES
@pytest.mark.parametrize("alike", [1, 2, 4, 8])
def test_delta_covers_every_pixel_from_any_element_on(shape, size, alike):
    k, height, width = shape
    plan, pixels = delta_plan(k, height, width, size, alike), height * width
    assert plan.threads <= 512 and plan.threads % 32 == 0 and alike % plan.span == 0 and plan.span * size <= 16
    assert plan.classes * pixels % plan.span == 0  # a class later the same elements are met
    if plan.groups * plan.classes == 1:
        assert plan.blocks * plan.slots * plan.span >= pixels + (plan.span - 1)
    else:
        own = plan.slots * plan.span - (plan.span if plan.span > 1 else 0)
        assert plan.blocks * own >= pixels and plan.slots * plan.groups <= plan.threads
        assert plan.shared == 4 * (32 + plan.groups * plan.classes * plan.slots * plan.span)


@SHAPES
@SIZES
@BAKED
@pytest.mark.parametrize("limit", LIMITS.values(), ids=LIMITS)
def test_contract_fits_and_covers_the_map(shape, size, limit, baked):
    k, height, width = shape
    plan = contract_plan(k, height, width, size, limit, baked)
    strips, band = blocks_of(width, plan.columns), plan.parts * plan.rows
    assert plan.shared <= limit and plan.threads <= 512 and plan.threads % 32 == 0
    assert plan.planes * strips * plan.parts <= plan.threads
    assert (plan.bands - 1) * band < height <= plan.bands * band and (plan.parts - 1) * plan.rows < band
    elements = 16 // size
    if plan.bands == 1:
        assert plan.stride >= height * width and plan.stride % elements == height * width % elements
    else:
        assert plan.stride >= band * width and (plan.stride - height * width) % elements == 0
    assert plan.x_bytes >= (plan.planes * plan.stride + elements - 1 + plan.columns) * size


@SHAPES
@BAKED
@pytest.mark.parametrize("limit", LIMITS.values(), ids=LIMITS)
def test_input_gradient_fits_and_covers_the_map(shape, limit, baked):
    k, height, width = shape
    plan = gradient_plan(k, height, width, limit, baked)
    assert plan.shared <= limit and plan.threads <= 512 and plan.threads % 32 == 0
    assert plan.groups * plan.stack * width <= plan.threads and plan.chunk <= k
    rows = plan.stack * plan.rows
    assert (plan.bands - 1) * rows < height <= plan.bands * rows
    last = (blocks_of(height, plan.rows) - 1) * plan.rows  # where the lowest threads that have rows start
    assert plan.sure == height - last <= plan.rows


def test_what_fits_on_the_newer_part_only_goes_by_bands_on_the_older():
    bands = {name: contract_plan(32, 37, 37, 4, limit).bands for name, limit in LIMITS.items()}
    assert bands["9.0"] <= bands["8.6"]
    assert contract_plan(8, 147, 147, 2, LIMITS["9.0"]).bands > 1
    assert contract_plan(91, 19, 19, 2, LIMITS["8.0"]).bands == contract_plan(8, 56, 56, 2, LIMITS["9.0"]).bands == 1


def test_maps_that_are_too_wide_have_no_plan():
    assert gradient_plan(8, 4, 512, LIMITS["9.0"]) and gradient_plan(8, 4, 513, LIMITS["9.0"]) is None
    assert contract_plan(8, 4, 20000, 2, LIMITS["9.0"]) is None


@pytest.mark.parametrize("size", [1, 2, 3, 12, 147, 400])
def test_divisions_are_all_that_leave_no_part_empty(size):
    every = [(parts, blocks_of(size, parts)) for parts in range(1, size + 1)]
    assert list(plans.divisions(size)) == [(parts, part) for parts, part in every if (parts - 1) * part < size]


@pytest.mark.parametrize("shape", [(91, 19, 19), (8, 147, 147), (3, 40, 7)], ids=str)
def test_the_search_finds_the_least_cost_of_all_strides(shape):
    limit = LIMITS["8.0"]
    every = [plans._laid_out(p, *shape[1:], 2) for p in plans._contract_plans(*shape, 2, limit)]
    least = min((p for p in every if p.shared <= limit), key=lambda p: plans._contract_cost(p, *shape))
    assert contract_plan(*shape, 2, limit) == least


@pytest.mark.parametrize("shape", [(16, 4000, 80), (16, 20000, 16)], ids=str)
def test_extreme_maps_are_planned_with_few_searches_for_a_stride(shape, monkeypatch):
    """Planning is Python before the first launch; all strides of all plans are hundreds of thousands."""
    laid_out, original = [], plans._laid_out
    monkeypatch.setattr(plans, "_laid_out", lambda *of: laid_out.append(1) or original(*of))
    assert plans.contract_plan.__wrapped__(*shape, 2, LIMITS["9.0"])
    assert 0 < len(laid_out) < 300


def test_odd_strides_meet_all_banks_and_a_multiple_of_32_words_does_not():
    assert plans._conflicts(361, 5, 32, 2) <= 2 and plans._conflicts(3136, 8, 8, 2) > 4
    assert contract_plan(8, 56, 56, 2, LIMITS["9.0"]).stride > 3136
