"""The gradients of the vectors among the parameters, from sums over pixels: a program is one channel of a group."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ...launching import accumulation
from ..tensors import Parameters


def vector_gradients(
    params: Parameters,
    q: Tensor,
    hh: Tensor,
    total: Tensor,
    e: Tensor,
    taps: Tensor,
    dm: Tensor,
    db3: Tensor,
    dgamma: Tensor,
    dbeta: Tensor,
) -> None:
    """The gradients (K) of b3, gamma and beta, from N instances' q (N, K), q hh (N, K) and D, `total` (N).

    e (9 K): E of `contract`, summed over instances. dm (N + 1, K): the gradient of each instance's m; the last row is
    p, and taps (9 K) = p W3.

    With D summed over instances, db3 = sum_n dm + p D, dgamma = sum_n q hh, and dbeta = sum_n q D + p (dp - <p, dp>),
    where dp = W3 e + b3 D, so that <p, dp> = taps e + <p, b3> D.
    """
    instances, k = q.shape
    _vector_gradients_kernel[(k,)](
        *(params.w3, params.b3, q, hh, total, e, taps, dm, db3, dgamma, dbeta, instances),
        K=k,
        BLOCK=min(1024, triton.next_power_of_2(9 * k)),
        ACC=accumulation(q),
        num_warps=4,
    )


# Rows of matrices with a row for each instance: where they start changes with the batch.
@triton.jit(do_not_specialize=["instances"], do_not_specialize_on_alignment=["e", "taps"])
def _vector_gradients_kernel(
    w3,
    b3,
    q,
    hh,
    total,
    e,
    taps,
    dm,
    db3,
    dgamma,
    dbeta,
    instances,
    K: tl.constexpr,
    BLOCK: tl.constexpr,
    ACC: tl.constexpr,
):
    channel = tl.program_id(0)
    p = dm + instances.to(tl.int64) * K
    lane = tl.arange(0, BLOCK)
    dp, mean = tl.zeros((BLOCK,), ACC), tl.zeros((BLOCK,), ACC)
    for first in range(0, 9 * K, BLOCK):
        i = first + lane
        sums = tl.load(e + i, mask=i < 9 * K, other=0)
        dp += tl.load(w3 + channel.to(tl.int64) * 9 * K + i, mask=i < 9 * K, other=0) * sums
        mean += tl.load(taps + i, mask=i < 9 * K, other=0) * sums
    bias = tl.zeros((BLOCK,), ACC)
    for first in range(0, K, BLOCK):
        i = first + lane
        bias += tl.load(p + i, mask=i < K, other=0) * tl.load(b3 + i, mask=i < K, other=0)
    of_m, of_hh = tl.zeros((BLOCK,), ACC), tl.zeros((BLOCK,), ACC)
    of_q, of_all = tl.zeros((BLOCK,), ACC), tl.zeros((BLOCK,), ACC)
    for first in range(0, instances, BLOCK):
        n = first + lane
        there = n < instances
        at = n.to(tl.int64) * K + channel
        d = tl.load(total + n, mask=there, other=0)
        of_all += d
        of_q += tl.load(q + at, mask=there, other=0) * d
        of_m += tl.load(dm + at, mask=there, other=0)
        of_hh += tl.load(hh + at, mask=there, other=0)
    d = tl.sum(of_all)
    own = tl.load(p + channel)
    difference = tl.sum(dp) + tl.load(b3 + channel) * d - (tl.sum(mean) + tl.sum(bias) * d)
    tl.store(db3 + channel, tl.sum(of_m) + own * d)
    tl.store(dgamma + channel, tl.sum(of_hh))
    tl.store(dbeta + channel, tl.sum(of_q) + own * difference)
