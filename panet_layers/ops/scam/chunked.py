"""SCAM's hand-written forward and backward, a cache-sized piece of the input at a time.

Kept for the backward: the input, what was pooled from it (2 numbers a channel, 2 a pixel) and the logits (1 a pixel).
Where each maximum sat is found again in the backward, by comparison with the maximum: cheaper than to ask
`torch.max` for it in the forward. n samples of C channels and P = H * W pixels make a piece.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..chunks import Piece, Scratch, accumulation_dtype, load, pieces, store


class Parameters(NamedTuple):
    """SCAM's parameters; the biases, and the normalisation's two, may be None."""

    fc1: Tensor  # (hidden, C)
    fc1_bias: Tensor | None  # (hidden)
    fc2: Tensor  # (C, hidden)
    fc2_bias: Tensor | None  # (C)
    conv: Tensor  # (1, 2, k, k)
    norm_weight: Tensor | None  # (1)
    norm_bias: Tensor | None  # (1)


class Saved(NamedTuple):
    """What the backward needs beside the input and the parameters."""

    pooled: Tensor  # (2, B, C): mean and maximum over the pixels
    maps: Tensor  # (B, 2, H, W): mean and maximum over the gated channels
    logits: Tensor  # (B, 1, H, W), before the normalisation
    moments: Tensor  # (2): mean and variance that normalise the logits


def saved_shapes(x: Tensor) -> list[tuple[int, ...]]:
    """The shapes of `Saved` for an input x."""
    batch, channels, height, width = x.shape
    return [(2, batch, channels), (batch, 2, height, width), (batch, 1, height, width), (2,)]


def forward(x: Tensor, params: Parameters, running: tuple[Tensor, Tensor] | None, eps: float) -> tuple[Tensor, Saved]:
    """x (B, C, H, W) -> the attended map, like x, and what the backward needs.

    `running` holds the mean and variance that normalise the logits; None takes the batch's own.
    """
    batch, channels, height, width = x.shape
    dtype = accumulation_dtype(x.dtype)
    params = _in_dtype(params, dtype)
    out = torch.empty_like(x)
    pooled, maps, logits, moments = (x.new_empty(shape, dtype=dtype) for shape in saved_shapes(x))
    x5, out5 = x.unflatten(1, (1, channels)), out.unflatten(1, (1, channels))
    cuts = pieces(x, 1)
    scratch = Scratch(x, cuts, 1)

    for piece in cuts:
        xs = load(x5, piece).flatten(2)
        torch.mean(xs, 2, out=pooled[0, piece[0]])
        torch.amax(xs, 2, out=pooled[1, piece[0]])
    gate = _channel_gate(pooled, params)

    def gated(piece: Piece) -> Tensor:
        xs = load(x5, piece)
        return torch.mul(xs, gate[piece[0], :, None, None], out=scratch.result(out5, piece))

    for piece in cuts:
        result = gated(piece)
        torch.mean(result, 1, out=maps[piece[0], 0])
        torch.amax(result, 1, out=maps[piece[0], 1])
    logits.copy_(_convolve(maps, params.conv))
    _set_moments(moments, logits, params, running)
    pixel_gate = _normalise(logits, moments, params, eps)[1].sigmoid_()

    for piece in cuts:
        result = scratch.result(out5, piece) if scratch.in_place(out5, piece) else gated(piece)
        store(out5, piece, result.mul_(pixel_gate[piece[0]]))
    return out, Saved(pooled, maps, logits, moments)


def backward(
    grad: Tensor, x: Tensor, params: Parameters, saved: Saved, batch_statistics: bool, eps: float
) -> tuple[Tensor, Parameters]:
    """The gradients of x and of the parameters (None stays None), for the gradient of the output."""
    channels = x.shape[1]
    dtype = accumulation_dtype(x.dtype)
    given, params = params, _in_dtype(params, dtype)
    dx = torch.empty_like(x)
    x5, grad5, dx5 = (part.unflatten(1, (1, channels)) for part in (x, grad, dx))
    cuts = pieces(x, 1)
    scratch = Scratch(x, cuts, 1)

    gate = _channel_gate(saved.pooled, params)
    normalised, scores = _normalise(saved.logits, saved.moments, params, eps)
    pixel_gate = scores.sigmoid().flatten(1)
    dscores, dgate = torch.empty_like(pixel_gate), torch.empty_like(gate)
    for piece in cuts:
        rows = piece[0]
        product = torch.mul(load(x5, piece), load(grad5, piece), out=scratch.result(dx5, piece)).flatten(2)
        dscores[rows] = torch.bmm(gate[rows, None], product)[:, 0]
        dgate[rows] = torch.bmm(pixel_gate[rows, None], product.mT)[:, 0]
    dscores = (dscores * pixel_gate * (1 - pixel_gate)).view_as(scores)
    dlogits, dnorm_weight, dnorm_bias = _normalise_backward(
        dscores, normalised, saved.moments, params, batch_statistics, eps
    )
    dmaps, dconv = _convolve_backward(dlogits, saved.maps, params.conv)
    dmean, dmaximum = (dmaps[:, 0] / channels).flatten(1), dmaps[:, 1].flatten(1)

    mlp = _MlpBackward(saved.pooled, params)
    for piece in cuts:
        rows = piece[0]
        xs, gs = load(x5, piece), load(grad5, piece)
        flat, gates = xs.flatten(2), gate[rows]
        result = scratch.result(dx5, piece).flatten(2)
        top_pixel = _first_hit(torch.ge(flat, saved.pooled[1, rows, :, None], out=result), 2)
        gated = torch.mul(flat, gates[:, :, None], out=result)
        top_channel = _first_hit(torch.ge(gated, saved.maps[rows, 1].flatten(1)[:, None], out=result), 1)

        dgates = dgate[rows] + torch.bmm(dmean[rows, None], flat.mT)[:, 0]
        dgates.scatter_add_(1, top_channel[:, 0], dmaximum[rows] * flat.gather(1, top_channel)[:, 0])
        daverage, dtop = mlp(dgates * gates * (1 - gates), rows)

        torch.addcmul(dmean[rows, None], gs.flatten(2), pixel_gate[rows, None], out=result)
        result.scatter_add_(1, top_channel, dmaximum[rows, None])
        # Not one `addcmul`: with two numbers a row it runs at a third of their speed.
        result.mul_(gates[:, :, None]).add_((daverage / flat.shape[2])[:, :, None])
        result.scatter_add_(2, top_pixel, dtop[:, :, None])
        store(dx5, piece, result.view_as(xs))
    grads = (*mlp.parameter_gradients(), dconv, dnorm_weight, dnorm_bias)
    return dx, Parameters._make(None if p is None else g.to(p.dtype).contiguous() for g, p in zip(grads, given))


def _in_dtype(params: Parameters, dtype: torch.dtype) -> Parameters:
    return Parameters._make(None if p is None else p.to(dtype) for p in params)


def _channel_gate(pooled: Tensor, params: Parameters) -> Tensor:
    """(2, B, C) pooled mean and maximum -> (B, C) gate; the second layer is linear, so it runs once on the sum."""
    hidden = F.linear(pooled, params.fc1, params.fc1_bias).relu_().sum(0)
    if params.fc2_bias is None:
        return torch.mm(hidden, params.fc2.mT).sigmoid_()
    return torch.addmm(params.fc2_bias, hidden, params.fc2.mT, beta=2).sigmoid_()


class _MlpBackward:
    """The backward of the channel gate's two layers, some samples at a time."""

    def __init__(self, pooled: Tensor, params: Parameters) -> None:
        self.pooled, self.params = pooled, params
        self.hidden = F.linear(pooled, params.fc1, params.fc1_bias).relu_()
        self.dgate, self.dhidden = torch.empty_like(pooled[0]), torch.empty_like(self.hidden)

    def __call__(self, dgate: Tensor, rows: slice) -> Tensor:
        """Gradient (n, C) before the sigmoid -> gradients (2, n, C) of the pooled mean and maximum."""
        self.dgate[rows] = dgate
        self.dhidden[:, rows] = torch.where(self.hidden[:, rows] <= 0, 0.0, dgate @ self.params.fc2)
        return self.dhidden[:, rows] @ self.params.fc1

    def parameter_gradients(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of fc1, its bias, fc2, its bias, once every sample has passed."""
        dhidden = self.dhidden.flatten(0, 1)
        fc1 = dhidden.mT @ self.pooled.flatten(0, 1)
        fc2 = self.dgate.mT @ self.hidden.sum(0)
        return fc1, dhidden.sum(0), fc2, 2 * self.dgate.sum(0)


def _convolve(maps: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(maps, weight, padding=weight.shape[-1] // 2)


def _convolve_backward(dlogits: Tensor, maps: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of the maps and of the weight."""
    # The maps' gradient as a forward convolution: five to ten times as fast on a CPU as the backward's own.
    dmaps = _convolve(dlogits, weight.flip(2, 3).transpose(0, 1))
    padding = [weight.shape[-1] // 2] * 2
    _, dweight, _ = torch.ops.aten.convolution_backward(
        dlogits, maps, weight, None, [1, 1], padding, [1, 1], False, [0, 0], 1, [False, True, False]
    )
    return dmaps, dweight


def _set_moments(moments: Tensor, logits: Tensor, params: Parameters, running: tuple[Tensor, Tensor] | None) -> None:
    if params.norm_weight is None:
        moments.zero_()
        return
    if running is None:
        mean = logits.mean()
        running = mean, logits.sub(mean).square_().mean()
    torch.stack([moment.squeeze() for moment in running], out=moments)


def _normalise(logits: Tensor, moments: Tensor, params: Parameters, eps: float) -> tuple[Tensor, Tensor]:
    """The normalised logits, and those scaled and shifted; without a normalisation, the logits and their copy."""
    if params.norm_weight is None or params.norm_bias is None:
        return logits, logits.clone()
    normalised = (logits - moments[0]) * (moments[1] + eps).rsqrt()
    return normalised, normalised * params.norm_weight + params.norm_bias


def _normalise_backward(
    grad: Tensor, normalised: Tensor, moments: Tensor, params: Parameters, batch_statistics: bool, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of the logits, of the scale (1) and of the shift (1)."""
    if params.norm_weight is None:
        return grad, grad, grad
    dweight, dbias = (grad * normalised).sum().view(1), grad.sum().view(1)
    if batch_statistics:
        grad = grad - (dbias + normalised * dweight) / max(1, grad.numel())
    return grad * params.norm_weight * (moments[1] + eps).rsqrt(), dweight, dbias


def _first_hit(hits: Tensor, dim: int) -> Tensor:
    """Index of the first one along `dim` in hits (n, C, P) of zeros and ones; the result keeps `dim`, of size 1.

    A product with the numbers L, L + 1, .. 2L - 1 tells where a hit is, if it is alone: two add up to 2L or more.
    Elsewhere (ties, NaN), the row is searched.
    """
    if hits.device.type != "cpu":
        return hits.argmax(dim, keepdim=True)
    length = hits.shape[dim]
    numbers = torch.arange(length, 2 * length, dtype=hits.dtype)
    index = (torch.matmul(numbers, hits) if dim == 1 else torch.matmul(hits, numbers)).long() - length
    several = (index < 0) | (index >= length)
    if several.any():
        index[several] = hits.movedim(dim, -1)[several].argmax(-1)
    return index.unsqueeze(dim)
