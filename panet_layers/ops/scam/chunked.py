"""SCAM's hand-written forward and backward, one cache-sized chunk of the input at a time.

The forward saves the input, what it pooled (2 numbers for each channel, 2 for each pixel) and the logits (1 for each
pixel). The backward finds the position of each maximum again, by comparison with it: that is cheaper than the indices
of `torch.max` in the forward. Symbols are those of docs/derivation.md. A chunk has n samples of C channels and
P = H * W pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..chunks import Chunk, Scratch, cut, load, store
from ..precision import accumulation_dtype
from .channel_gate import channel_gate, hidden_features, hidden_gradient, parameter_gradients
from .tensors import ChunkedSaved, Parameters, Running, empty_chunked_saved


def forward(
    x: Tensor, params: Parameters, running: Running, batch_statistics: bool, eps: float
) -> tuple[Tensor, ChunkedSaved]:
    """Return the attended map, like x (B, C, H, W), and what the backward needs.

    The logits are normalised by the batch's statistics or by the running ones.
    """
    channels = x.shape[1]
    params = params.to(accumulation_dtype(x.dtype))
    out, saved = torch.empty_like(x), empty_chunked_saved(x)
    pooled, maps, logits, moments = saved
    x5, out5 = x.unflatten(1, (1, channels)), out.unflatten(1, (1, channels))
    chunks = cut(x, 1)
    scratch = Scratch(x, chunks, 1)

    for chunk in chunks:
        xs = load(x5, chunk).flatten(2)
        torch.mean(xs, 2, out=pooled[0, chunk[0]])
        torch.amax(xs, 2, out=pooled[1, chunk[0]])
    gate = channel_gate(hidden_features(pooled, params), params)

    def gated(chunk: Chunk) -> Tensor:
        xs = load(x5, chunk)
        return torch.mul(xs, gate[chunk[0], :, None, None], out=scratch.result(out5, chunk))

    for chunk in chunks:
        result = gated(chunk)
        torch.mean(result, 1, out=maps[chunk[0], 0])
        torch.amax(result, 1, out=maps[chunk[0], 1])
    logits.copy_(_convolve(maps, params.conv))
    if params.norm_weight is None:
        moments.zero_()
    elif batch_statistics:
        mean = logits.mean()
        torch.stack([mean, logits.sub(mean).square_().mean()], out=moments)
    else:
        torch.cat(running, out=moments)  # type: ignore[arg-type]
    pixel_gate = _normalise(logits, moments, params, eps)[1].sigmoid_()

    for chunk in chunks:
        result = scratch.result(out5, chunk) if scratch.in_place(out5, chunk) else gated(chunk)
        store(out5, chunk, result.mul_(pixel_gate[chunk[0]]))
    return out, saved


def backward(
    grad: Tensor, x: Tensor, params: Parameters, saved: ChunkedSaved, batch_statistics: bool, eps: float
) -> tuple[Tensor, Parameters]:
    """Return the gradients of x and of the parameters (None stays None), for the gradient of the output."""
    channels = x.shape[1]
    given, params = params, params.to(accumulation_dtype(x.dtype))
    dx = torch.empty_like(x)
    x5, grad5, dx5 = (part.unflatten(1, (1, channels)) for part in (x, grad, dx))
    chunks = cut(x, 1)
    scratch = Scratch(x, chunks, 1)

    hidden = hidden_features(saved.pooled, params)
    gate = channel_gate(hidden, params)
    normalised, scores = _normalise(saved.logits, saved.moments, params, eps)
    pixel_gate = scores.sigmoid().flatten(1)
    dscores, dgate = torch.empty_like(pixel_gate), torch.empty_like(gate)
    for chunk in chunks:
        rows = chunk[0]
        product = torch.mul(load(x5, chunk), load(grad5, chunk), out=scratch.result(dx5, chunk)).flatten(2)
        dscores[rows] = torch.bmm(gate[rows, None], product)[:, 0]
        dgate[rows] = torch.bmm(pixel_gate[rows, None], product.mT)[:, 0]
    dscores = (dscores * pixel_gate * (1 - pixel_gate)).view_as(scores)
    dlogits, dnorm_weight, dnorm_bias = _normalise_backward(
        dscores, normalised, saved.moments, params, batch_statistics, eps
    )
    dmaps, dconv = _convolve_backward(dlogits, saved.maps, params.conv)
    dmean, dmaximum = (dmaps[:, 0] / channels).flatten(1), dmaps[:, 1].flatten(1)

    dv, dhidden = torch.empty_like(gate), torch.empty_like(hidden)
    for chunk in chunks:
        rows = chunk[0]
        xs, gs = load(x5, chunk), load(grad5, chunk)
        flat, gates = xs.flatten(2), gate[rows]
        result = scratch.result(dx5, chunk).flatten(2)
        top_pixel = _first_hit(torch.ge(flat, saved.pooled[1, rows, :, None], out=result), 2)
        gated = torch.mul(flat, gates[:, :, None], out=result)
        top_channel = _first_hit(torch.ge(gated, saved.maps[rows, 1].flatten(1)[:, None], out=result), 1)

        dgates = dgate[rows] + torch.bmm(dmean[rows, None], flat.mT)[:, 0]
        dgates.scatter_add_(1, top_channel[:, 0], dmaximum[rows] * flat.gather(1, top_channel)[:, 0])
        torch.mul(dgates * gates, 1 - gates, out=dv[rows])
        dhidden[:, rows] = hidden_gradient(dv[rows], hidden[:, rows], params)
        daverage, dtop = dhidden[:, rows] @ params.fc1

        torch.addcmul(dmean[rows, None], gs.flatten(2), pixel_gate[rows, None], out=result)
        result.scatter_add_(1, top_channel, dmaximum[rows, None])
        # Not one `addcmul`: where two operands are broadcast along rows, it takes three times as long.
        result.mul_(gates[:, :, None]).add_((daverage / flat.shape[2])[:, :, None])
        result.scatter_add_(2, top_pixel, dtop[:, :, None])
        store(dx5, chunk, result.view_as(xs))
    of_gate = parameter_gradients(dv, dhidden, saved.pooled, hidden, params)
    return dx, Parameters(*of_gate, dconv, dnorm_weight, dnorm_bias).like(given)


def _convolve(maps: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(maps, weight, padding=weight.shape[-1] // 2)


def _convolve_backward(dlogits: Tensor, maps: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of the maps and of the weight."""
    # The gradient of the maps as a forward convolution: on a CPU five to ten times as fast as torch's backward.
    dmaps = _convolve(dlogits, weight.flip(2, 3).transpose(0, 1))
    padding = [weight.shape[-1] // 2] * 2
    _, dweight, _ = torch.ops.aten.convolution_backward(
        dlogits, maps, weight, None, [1, 1], padding, [1, 1], False, [0, 0], 1, [False, True, False]
    )
    return dmaps, dweight


def _normalise(logits: Tensor, moments: Tensor, params: Parameters, eps: float) -> tuple[Tensor, Tensor]:
    """Return the normalised logits, and the same scaled and shifted; without a normalisation, the logits and a copy."""
    if params.norm_weight is None or params.norm_bias is None:
        return logits, logits.clone()
    normalised = (logits - moments[0]) * (moments[1] + eps).rsqrt()
    return normalised, normalised * params.norm_weight + params.norm_bias


def _normalise_backward(
    grad: Tensor, normalised: Tensor, moments: Tensor, params: Parameters, batch_statistics: bool, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of the logits, of the scale (1) and of the shift (1)."""
    if params.norm_weight is None:
        return grad, grad, grad
    dweight, dbias = (grad * normalised).sum().view(1), grad.sum().view(1)
    if batch_statistics:
        grad = grad - (dbias + normalised * dweight) / max(1, grad.numel())
    return grad * params.norm_weight * (moments[1] + eps).rsqrt(), dweight, dbias


def _first_hit(hits: Tensor, dim: int) -> Tensor:
    """Return the index of the first 1 along `dim` in hits (n, C, P) of zeros and ones; `dim` stays, with size 1.

    A product with the numbers 2L, 2L + 1, ..., 3L - 1 is 2L plus the index of a single hit, and about 4L or more for
    several. Floating point may round it: beyond 2^24, or at once where matrix products may run in bfloat16. So an index
    counts only if there is a hit; other rows, also those with several hits (ties) or none (NaN), are searched.
    """
    if hits.device.type != "cpu":
        return hits.argmax(dim, keepdim=True)
    length = hits.shape[dim]
    numbers = torch.arange(2 * length, 3 * length, dtype=hits.dtype)
    found = (torch.matmul(numbers, hits) if dim == 1 else torch.matmul(hits, numbers)).long() - 2 * length
    index = found.clamp(0, length - 1)
    unsure = (found != index) | (hits.gather(dim, index.unsqueeze(dim)).squeeze(dim) != 1)
    if unsure.any():
        index[unsure] = hits.movedim(dim, -1)[unsure].argmax(-1)
    return index.unsqueeze(dim)
