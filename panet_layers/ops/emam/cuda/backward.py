"""EMAM's backward on contiguous maps: kernels of CUDA C for what is large, torch GEMMs for what is small.

Symbols are those of docs/derivation.md. grad and x are read in `delta` and in `input_gradient`, x also in `contract`.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from ...availability import current_device
from ...cuda import launching
from ...cuda.baking import baked
from ..tensors import Parameters, Saved, clear_unread_taps
from .backward_plans import SUMS, blocks_of, check_taken, contract_plan, delta_plan, gradient_plan
from .starting import Start, start

FINISH_THREADS, FINISH_LANES, PARAMETER_THREADS = 256, 32, 128


class Shape(NamedTuple):
    """Sizes of the problem: N instances of K channels and H x W pixels."""

    n: int
    k: int
    height: int
    width: int


def backward(grad: Tensor, x: Tensor, params: Parameters, saved: Saved, groups: int) -> tuple[Tensor, Parameters]:
    """Return the gradients of x and of the parameters, for the gradient of the output (B, C, H, W).

    x is contiguous; a gradient that is not is copied. Of `saved`, means and gates may have any strides between channels
    and between instances; K outermost spares a copy.
    Raises TooLarge where the kernels do not take x's size, Unusable where they cannot be compiled or launched.
    """
    x, grad = x.contiguous(), grad.contiguous()
    dx = torch.empty_like(x)
    if x.numel() == 0:
        return dx, Parameters(*(p.new_zeros(p.shape) for p in params))
    shape = Shape(x.shape[0] * groups, x.shape[1] // groups, *x.shape[2:])
    n, k, height, width = shape
    given, params = params, params.to(torch.float32)
    with current_device(x):
        kernels = plan(grad, x, shape)
        means, gates, mean, rstd, q, gate = (part.flatten(0, 1) for part in saved)
        w1, w3 = params.w1.flatten(1), params.w3.flatten(1)
        delta = q.new_empty((n, height + 2, width + 2))  # gate (1 - gate) sum_c grad_c x_c, with a border of zeros
        delta_sums = q.new_empty((n, kernels.delta_blocks))
        kernels.delta(grad, x, gate, delta, delta_sums, n)

        dm = q.new_empty((n + 1, k))  # the last row is p, which shares two products with the gradients of m
        torch.softmax(params.beta, 0, out=dm[n])
        windows = q.new_empty((n + 1, 12 * k))  # the last row is the sum of `sums`
        sums, dq, coefficients = q.new_empty((n, 12 * k)), torch.empty_like(q), q.new_empty((n, 3, k))
        dpre = q.new_empty((k, n * (height + width)))  # the gradient before the gates' sigmoids
        sides = _same_strides(means, gates)
        inputs = (x, *sides, mean, rstd, q, params.gamma, params.beta)
        results = (coefficients, dq, sums, windows, dpre, *_memory_of_bands(q, kernels.bands, shape))
        strides = sides[0].stride()[:2]
        kernels.contract(*inputs, delta, delta_sums, *results, *strides, kernels.delta_blocks, n)
        if kernels.finish:
            kernels.finish(*inputs, delta_sums, *results, *strides, kernels.delta_blocks, n)

        torch._softmax_backward_data(dq, q, 1, torch.float32, grad_input=dm[:n])
        dwindows = dm @ w3
        taps, dmeans = dwindows[n], w1.mT @ dpre
        maps = (grad, x, sides[1], gate, delta)
        kernels.input_gradient(*maps, coefficients, taps, dmeans, dwindows, dx, *strides, n)
        del delta, coefficients, dmeans, maps, results  # to free the memory that the products below need
        torch.sum(sums, 0, out=windows[n])
        vectors = [torch.empty_like(params.beta) for _ in range(4)]
        kernels.parameter_gradients(windows[n], w3, params.b3, taps, dm, *vectors, n)
        b1, b3, gamma, beta = vectors
        dw1 = dpre @ means.transpose(0, 1).flatten(1).mT
        gradients = Parameters(dw1, b1, dm.mT @ windows[:, : 9 * k], b3, gamma, beta)
    clear_unread_taps(gradients.w3.view(k, k, 3, 3), height, width)
    return dx, gradients.like(given)


class Plan(NamedTuple):
    """The kernels of a backward, and in how many blocks of pixels and bands of rows they take a plane."""

    delta: Start
    contract: Start
    finish: Start | None  # where there are several bands
    input_gradient: Start
    parameter_gradients: Start
    delta_blocks: int
    bands: int


def plan(grad: Tensor, x: Tensor, shape: Shape) -> Plan:
    """Return the plan for these on the current device. Raise TooLarge where no plan fits."""
    apart = (grad.data_ptr() - x.data_ptr()) // x.element_size()
    alike = math.gcd(apart, 8)  # both start at the same element of so many
    return _plan(shape, x.dtype, launching.machine.limits().shared_bytes, alike, baked(*shape[1:]))


@functools.lru_cache(maxsize=256)
def _plan(shape: Shape, dtype: torch.dtype, limit: int, alike: int, is_baked: bool) -> Plan:
    n, k, height, width = shape
    check_taken(*shape, dtype.itemsize, limit, is_baked)
    of_map = {"K": k, "H": height, "W": width}
    begin = functools.partial(start, dtype=dtype, baked=is_baked)

    cut = delta_plan(k, height, width, dtype.itemsize, alike)
    sizes = of_map | {name: getattr(cut, name) for name in ("blocks", "slots", "classes", "groups")}
    delta = begin(
        "delta", blocks=n * cut.blocks, threads=cut.threads, shared=cut.shared, sizes=sizes,
        SPAN=cut.span, DIRECT=int(cut.groups * cut.classes == 1),
    )  # fmt: skip

    walk = contract_plan(k, height, width, dtype.itemsize, limit, is_baked)
    assert walk is not None  # else `check_taken` raised
    chunks, bands = blocks_of(k, walk.planes), walk.bands
    sizes = of_map | {"chunks": chunks, "bands": bands, "parts": walk.parts, "part_rows": walk.rows}
    sizes |= {"planes": walk.planes, "stride": walk.stride, "x_bytes": walk.x_bytes}
    contract = begin(
        "contract", blocks=n * chunks * bands, threads=walk.threads, shared=walk.shared, sizes=sizes,
        COLUMNS=walk.columns, BANDED=int(bands > 1),
    )  # fmt: skip
    chunks, shared = blocks_of(k, FINISH_LANES), 8 * FINISH_THREADS + 4 * SUMS * FINISH_LANES
    sizes = of_map | {"chunks": chunks, "bands": bands}
    finish = begin("finish", blocks=n * chunks, threads=FINISH_THREADS, shared=shared, sizes=sizes)

    of_dx = gradient_plan(k, height, width, limit, is_baked)
    assert of_dx is not None
    chunks = blocks_of(k, of_dx.chunk)
    sizes = of_map | {"chunks": chunks} | {name: getattr(of_dx, name) for name in ("bands", "stack", "groups", "chunk")}
    input_gradient = begin(
        "input_gradient", blocks=n * of_dx.bands * chunks, threads=of_dx.threads, shared=of_dx.shared, sizes=sizes,
        ROWS=of_dx.rows, SURE=of_dx.sure if is_baked else 0,
    )  # fmt: skip
    shared = 5 * 4 * (PARAMETER_THREADS // 32)
    parameter_gradients = start(
        "parameter_gradients", torch.float32, k, PARAMETER_THREADS, shared, sizes={"K": k}, baked=False
    )
    return Plan(delta, contract, finish if bands > 1 else None, input_gradient, parameter_gradients, cut.blocks, bands)


def _memory_of_bands(like: Tensor, bands: int, shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
    """Sums, row sums and column sums of each band, for `finish` to add up; nothing for a single band."""
    n, k, bands = (shape.n, shape.k, bands) if bands > 1 else (0, 0, 0)
    rows = like.new_empty((n, 2, shape.height, k))
    return like.new_empty((n, bands, SUMS, k)), rows, like.new_empty((n, bands, 2, shape.width, k))


def _same_strides(*sides: Tensor) -> list[Tensor]:
    """Return statistics (N, K, L) with L innermost, and the strides of the first."""
    first = sides[0] if sides[0].stride(2) == 1 else sides[0].contiguous()
    return [first, *(s if s.stride() == first.stride() else torch.empty_like(first).copy_(s) for s in sides[1:])]
