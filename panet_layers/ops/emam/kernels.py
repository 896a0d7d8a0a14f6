"""EMAM's passes over NCHW maps (any strides) as Triton kernels, and their launchers.

Every launcher writes into the tensors it is given. x, grad, out and dx are (B, C, H, W) with C = G * K, strided at
will; the rest is contiguous, in the accumulation's dtype (float32; float64 for float64), with N = B * G instances,
P = H * W pixels, L = H + W (rows first, then columns) and nine taps k = 3 ky + kx.
"""

from __future__ import annotations

from torch import Tensor

from .chunked import Parameters


def pool(x: Tensor, means: Tensor, windows: Tensor) -> None:
    """means (N, K, L): row and column means of x. windows (N, K, 9): what tap k sees of x, summed, divided by P.

    Tap (ky, kx) sees all rows but the last for ky = 0, all but the first for ky = 2; columns alike.
    """


def moments(x: Tensor, gates: Tensor, eps: float, mean: Tensor, rstd: Tensor) -> None:
    """mean, rstd (N, K) of t = x a d over the pixels, rstd = 1 / sqrt(variance + eps), two-pass; gates (N, K, L)."""


def attend(
    x: Tensor,
    gates: Tensor,
    mean: Tensor,
    rstd: Tensor,
    q: Tensor,
    p: Tensor,
    taps: Tensor,
    params: Parameters,
    out: Tensor,
    gate: Tensor,
) -> None:
    """gate (N, P) = sigmoid(y), out = x gate.

    y = conv(x; taps) + sum_c q_c gamma_c rstd_c (t_c - mean_c) + <q, beta> + <p, b3>, where
    conv(x; taps)(h, w) = sum_c,k taps[9 c + k] x_c(h + ky - 1, w + kx - 1), zero outside; taps (9 K), p (K), q (N, K).
    """


def delta(grad: Tensor, x: Tensor, gate: Tensor, out: Tensor) -> None:
    """out (N, P) = gate (1 - gate) sum_c grad_c x_c: the gradient before the last sigmoid."""


def contract(
    x: Tensor,
    means: Tensor,
    gates: Tensor,
    mean: Tensor,
    rstd: Tensor,
    q: Tensor,
    params: Parameters,
    delta: Tensor,
    dpre: Tensor,
    windows: Tensor,
    coefficients: Tensor,
    sums: Tensor,
) -> None:
    """All sums over pixels that the gradients need, per instance n and channel c.

    With D = sum_p delta, hh = rstd sum_p (t - mean) delta, kappa = q gamma rstd, slope = -kappa rstd hh / P,
    offset = -kappa D / P - slope mean and dt = kappa delta + offset + slope t:

    dpre (K, N, L), mind the order: the gradient before the gates' sigmoid, (1 - a) sum_w t dt and (1 - d) sum_h t dt.
    windows (N, K, 9): as `pool` has them.
    coefficients (N, 3, K): kappa, offset, slope.
    sums (N, 13 K): gamma hh + beta D | q hh | q D | dpre summed over L | E (K, 9),
    E[c, k] = sum_hw x_c(h, w) delta(h - ky + 1, w - kx + 1), zero outside.
    """


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
) -> None:
    """dx = grad gate + dt a d + dmeans / (W or H) + sum_k taps[9 c + k] delta(h - ky + 1, w - kx + 1) + windows' part.

    dmeans (K, N * L), mind the order: the gradient of the row and column means. dwindows (N, 9 K): the gradient of the
    window sums (not means): dx(h, w) gets dwindows[9 c + k] of each tap for which (h - ky + 1, w - kx + 1) is inside.
    """
