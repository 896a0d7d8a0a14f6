"""EMAM's backward on contiguous maps: kernels of CUDA C for what is large, torch GEMMs for what is small.

Symbols are those of docs/derivation.md. grad and x are read in `delta` and in `input_gradient`, x also in `contract`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ...availability import current_device
from ...cuda.baking import baked
from ...cuda.launching import Kernel, launch, limits
from ..tensors import Parameters, Saved, clear_unread_taps
from .backward_plans import ContractPlan, blocks_of, check_taken, contract_plan, delta_plan, gradient_plan

FOLDER = Path(__file__).parent
DTYPES = {torch.bfloat16: 0, torch.float16: 1, torch.float32: 2}
FINISH_THREADS, FINISH_LANES, PARAMETER_THREADS = 256, 32, 128
SUMS = 10  # of a channel and band: E and T


class Shape(NamedTuple):
    """Sizes of the problem: N instances of K channels and H x W pixels."""

    n: int
    k: int
    height: int
    width: int

    @property
    def sizes(self) -> tuple[int, int, int]:
        """K, H and W, as every kernel takes them."""
        return self.k, self.height, self.width


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
    n, k = shape.n, shape.k
    given, params = params, params.to(torch.float32)
    with current_device(x):
        check_taken(*shape, x.element_size(), limits().shared_bytes)
        means, gates, mean, rstd, q, gate = (part.flatten(0, 1) for part in saved)
        w1, w3 = params.w1.flatten(1), params.w3.flatten(1)
        map_of_delta, delta_sums = delta(grad, x, gate, shape)

        dm = q.new_empty((n + 1, k))  # the last row is p, which shares two products with the gradients of m
        torch.softmax(params.beta, 0, out=dm[n])
        windows = q.new_empty((n + 1, 12 * k))  # the last row is the sum of `sums`
        sums, dq, coefficients = q.new_empty((n, 12 * k)), torch.empty_like(q), q.new_empty((n, 3, k))
        dpre = q.new_empty((k, n * (shape.height + shape.width)))
        statistics = (mean, rstd, q, params.gamma, params.beta)
        contract(x, means, gates, statistics, map_of_delta, delta_sums, coefficients, dq, sums, windows, dpre, shape)

        torch._softmax_backward_data(dq, q, 1, torch.float32, grad_input=dm[:n])
        dwindows = dm @ w3
        taps, dmeans = dwindows[n], w1.mT @ dpre
        input_gradient(grad, x, gates, gate, map_of_delta, coefficients, taps, dmeans, dwindows, dx, shape)
        del map_of_delta, coefficients, dmeans  # to free the memory that the products below need
        torch.sum(sums, 0, out=windows[n])
        vectors = [torch.empty_like(params.beta) for _ in range(4)]
        launch(
            _kernel("parameter_gradients", torch.float32, PARAMETER_THREADS), k, PARAMETER_THREADS,
            5 * 4 * (PARAMETER_THREADS // 32), windows[n], w3, params.b3, taps, dm, *vectors, n, k,
        )  # fmt: skip
        b1, b3, gamma, beta = vectors
        dw1 = dpre @ means.transpose(0, 1).flatten(1).mT
        gradients = Parameters(dw1, b1, dm.mT @ windows[:, : 9 * k], b3, gamma, beta)
    clear_unread_taps(gradients.w3.view(k, k, 3, 3), *x.shape[2:])
    return dx, gradients.like(given)


def delta(grad: Tensor, x: Tensor, gate: Tensor, shape: Shape) -> tuple[Tensor, Tensor]:
    """Return gate (1 - gate) sum_c grad_c x_c in a map with a border of zeros, and its sums over blocks of pixels."""
    plan = delta_plan(*shape.sizes, x.element_size(), _alike(grad, x))
    padded = gate.new_empty((shape.n, shape.height + 2, shape.width + 2))
    sums = gate.new_empty((shape.n, plan.blocks))
    kernel = _kernel(
        "delta",
        x.dtype,
        plan.threads,
        shape,
        SPAN=plan.span,
        CLASSES=plan.classes,
        SLOTS=plan.slots,
        GROUPS=plan.groups,
    )
    blocks = shape.n * plan.blocks
    launch(kernel, blocks, plan.threads, plan.shared, grad, x, gate, padded, sums, shape.n, plan.blocks, *shape.sizes)
    return padded, sums


def contract(
    x: Tensor,
    means: Tensor,
    gates: Tensor,
    statistics: tuple[Tensor, ...],
    delta: Tensor,
    delta_sums: Tensor,
    coefficients: Tensor,
    dq: Tensor,
    sums: Tensor,
    windows: Tensor,
    dpre: Tensor,
    shape: Shape,
) -> None:
    """All sums over pixels, as totals.cuh describes them; dpre (K, N L): the gradient before the gates' sigmoids."""
    plan = contract_plan(*shape.sizes, x.element_size(), limits().shared_bytes)
    assert plan is not None  # else `check_taken` raised
    sides = _same_strides(means, gates)
    inputs = (x, *sides, *sides[0].stride()[:2], *statistics)
    results = (coefficients, dq, sums, windows, dpre)
    chunks, delta_blocks = blocks_of(shape.k, plan.planes), delta_sums.shape[1]
    of_bands = _memory_of_bands(sums, plan, shape)
    kernel = _kernel(
        "contract", x.dtype, plan.threads, shape, COLUMNS=plan.columns, PARTS=plan.parts, ROWS=plan.rows,
        PLANES=plan.planes, BANDED=int(plan.bands > 1),
    )  # fmt: skip
    launch(
        kernel, shape.n * chunks * plan.bands, plan.threads, plan.shared, *inputs, delta, delta_sums, delta_blocks,
        *results, *of_bands, shape.n, chunks, plan.bands, plan.stride, plan.x_bytes, *shape.sizes,
    )  # fmt: skip
    if plan.bands == 1:
        return
    chunks = blocks_of(shape.k, FINISH_LANES)
    launch(
        _kernel("finish", x.dtype, FINISH_THREADS, shape), shape.n * chunks, FINISH_THREADS,
        8 * FINISH_THREADS + 4 * SUMS * FINISH_LANES, *inputs, delta_sums, delta_blocks,
        *results, *of_bands, shape.n, chunks, plan.bands, *shape.sizes,
    )  # fmt: skip


def input_gradient(
    grad: Tensor,
    x: Tensor,
    gates: Tensor,
    gate: Tensor,
    delta: Tensor,
    coefficients: Tensor,
    taps: Tensor,
    dmeans: Tensor,
    dwindows: Tensor,
    dx: Tensor,
    shape: Shape,
) -> None:
    """dx, from dmeans (K, N L) and dwindows (N, 9 K): the gradients of the means and of the window means."""
    plan = gradient_plan(*shape.sizes, limits().shared_bytes)
    assert plan is not None
    (gates,) = _same_strides(gates)
    is_baked = baked(*shape.sizes)
    kernel = _kernel(
        "input_gradient", x.dtype, plan.threads, shape, ROWS=plan.rows, STACK=plan.stack, GROUPS=plan.groups,
        CHUNK=plan.chunk, SURE=plan.sure if is_baked else 0,
    )  # fmt: skip
    chunks = blocks_of(shape.k, plan.chunk)
    launch(
        kernel, shape.n * plan.bands * chunks, plan.threads, plan.shared, grad, x, gates, *gates.stride()[:2], gate,
        delta, coefficients, taps, dmeans, dwindows, dx, shape.n, plan.bands, chunks, *shape.sizes,
    )  # fmt: skip


def _kernel(name: str, dtype: torch.dtype, threads: int, shape: Shape | None = None, **defines: int) -> Kernel:
    """Return the kernel of a file, with the sizes of the shape compiled in where that is the rule."""
    defines = {"DT": DTYPES[dtype], "THREADS": threads} | defines
    if shape is not None and baked(*shape.sizes):
        defines |= {"BAKED": 1, "BAKED_K": shape.k, "BAKED_H": shape.height, "BAKED_W": shape.width}
    return Kernel(str(FOLDER / f"{name}.cu"), name, tuple(defines.items()))


def _alike(grad: Tensor, x: Tensor) -> int:
    """Return the largest power of two up to 8 for which both start at the same element of so many."""
    apart = (grad.data_ptr() - x.data_ptr()) // x.element_size()
    return math.gcd(apart, 8)


def _same_strides(*sides: Tensor) -> list[Tensor]:
    """Return statistics (N, K, L) with L innermost, and the strides of the first."""
    first = sides[0] if sides[0].stride(2) == 1 else sides[0].contiguous()
    return [first, *(s if s.stride() == first.stride() else torch.empty_like(first).copy_(s) for s in sides[1:])]


def _memory_of_bands(like: Tensor, plan: ContractPlan, shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
    """Sums, row sums and column sums of each band, for `finish` to add up; nothing for a single band."""
    n, k, bands = (shape.n, shape.k, plan.bands) if plan.bands > 1 else (0, 0, 0)
    rows = like.new_empty((n, 2, shape.height, k))
    return like.new_empty((n, bands, SUMS, k)), rows, like.new_empty((n, bands, 2, shape.width, k))
