"""The layers as functions of tensors: check the input, choose the backend and the precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from . import tracing
from .backends import check_can_call, resolve_backend
from .checks import check_batch_statistics, check_devices, check_input, check_share
from .compatibility import transformed
from .mixing import mixed, traced
from .ops.emam import autograd as emam_autograd
from .ops.emam import collapsed as emam_collapsed
from .ops.emam import reference as emam_reference
from .ops.emam.tensors import Parameters as EmamParameters
from .ops.precision import accumulation_dtype, without_autocast
from .ops.scam import autograd as scam_autograd
from .ops.scam import reference as scam_reference
from .ops.scam.tensors import Parameters as ScamParameters
from .parts import is_batch_norm
from .subclasses import takes_subclasses

__all__ = ["channel_attention", "emam", "scam", "spatial_attention"]


class Small(NamedTuple):
    """The number of elements up to which plain formulas are faster on a CPU than the hand-written derivatives."""

    inference: int
    training: int


SMALL_EMAM = Small(inference=1 << 16, training=1 << 15)
SMALL_SCAM = Small(inference=1 << 17, training=1 << 19)

# In the order of `Parameters`, for errors.
EMAM_NAMES = ("conv1x1.weight", "conv1x1.bias", "conv3x3.weight", "conv3x3.bias", "gn.weight", "gn.bias")
MLP_NAMES = ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")
NORM_NAMES = ("bn.weight", "bn.bias", "bn.running_mean", "bn.running_var", "bn.num_batches_tracked")
SCAM_NAMES = (*MLP_NAMES, "conv.weight", *NORM_NAMES)


@takes_subclasses
def emam(
    x: Tensor,
    conv1x1_weight: Tensor,
    conv1x1_bias: Tensor,
    conv3x3_weight: Tensor,
    conv3x3_bias: Tensor,
    gn_weight: Tensor,
    gn_bias: Tensor,
    groups: int = 8,
    eps: float = 1e-5,
    *,
    backend: str | None = None,
    share: Tensor | None = None,
) -> Tensor:
    """Return the efficient multi-scale attention of x (B, C, H, W), as `panet_layers.EMAM` computes it.

    Args:
        x: the input; with G groups, K = C / G.
        conv1x1_weight, conv1x1_bias: (K, K, 1, 1) and (K,).
        conv3x3_weight, conv3x3_bias: (K, K, 3, 3) and (K,).
        gn_weight, gn_bias: (K,) each, scale and shift of the group normalisation.
        groups: G.
        eps: added to the variance.
        backend: as in `EMAM`.
        share: None, or s, () or (1,), floating point, on x's device, which may be learned: then lerp(x, the attention
            of x, s) is returned, which is x, bit for bit, where s = 0 (in compiled, exported and traced graphs if the
            attention is finite). The compiled kernels compute it without another pass over the map.

    Returns a tensor like x. Raises what `EMAM` raises, and for a share TypeError where it is no floating-point tensor,
    ValueError where it is not one number.
    """
    check_input(x, conv1x1_weight.shape[0] * groups, "EMAM")
    params = EmamParameters(conv1x1_weight, conv1x1_bias, conv3x3_weight, conv3x3_bias, gn_weight, gn_bias)
    check_share(share)
    check_devices(x, (share, *params), ("share", *EMAM_NAMES), "EMAM")
    chosen = resolve_backend(backend, x, has_cuda=True)
    if share is not None and not _is_mixed_by_kernels(chosen, x, share):
        weights = (conv1x1_weight, conv1x1_bias, conv3x3_weight, conv3x3_bias, gn_weight, gn_bias)
        return mixed(x, lambda x: emam(x, *weights, groups, eps, backend=backend), share, own=True)
    if chosen == "reference" or (chosen == "collapsed" and _is_small(x, params, SMALL_EMAM)):
        return no_view(in_full_precision(emam_reference.emam, x, params, groups, eps))
    if chosen == "plain" or transformed():
        return no_view(in_full_precision(emam_collapsed.emam, x, params, groups, eps))
    return emam_autograd.emam(x, params, groups, eps, chosen, share)


@takes_subclasses
def scam(
    x: Tensor,
    fc1_weight: Tensor,
    fc2_weight: Tensor,
    conv_weight: Tensor,
    fc1_bias: Tensor | None = None,
    fc2_bias: Tensor | None = None,
    norm: nn.BatchNorm2d | None = None,
    *,
    backend: str | None = None,
    share: Tensor | None = None,
) -> Tensor:
    """Return the spatial and channel attention of x (B, C, H, W), as `panet_layers.SCAM` computes it.

    Args:
        x: the input.
        fc1_weight, fc1_bias: (hidden, C) and (hidden,) or None.
        fc2_weight, fc2_bias: (C, hidden) and (C,) or None.
        conv_weight: (1, 2, k, k), over the maps [mean, max].
        norm: a one-channel batch normalisation after the convolution, or None. Training updates its running statistics.
        backend: as in `SCAM`.
        share: as in `emam`.

    Returns a tensor like x. Raises what `SCAM` raises, and for a share what `emam` raises.
    """
    check_input(x, fc1_weight.shape[1], "SCAM")
    mlp = (fc1_weight, fc1_bias, fc2_weight, fc2_bias)
    check_share(share)
    check_devices(x, (share, *mlp, conv_weight, *_tensors(norm)), ("share", *SCAM_NAMES), "SCAM")
    chosen = resolve_backend(backend, x)
    read = is_batch_norm(norm)
    if share is not None and not (read and _is_mixed_by_kernels(chosen, x, share)):
        weights = (fc1_weight, fc2_weight, conv_weight, fc1_bias, fc2_bias)
        return mixed(x, lambda x: scam(x, *weights, norm, backend=backend), share, own=True)
    if chosen == "collapsed" and _is_small(x, (*mlp, conv_weight), SMALL_SCAM):
        chosen = "plain"
    if norm is not None and not read:
        check_can_call(backend, norm, "")
    if chosen in ("reference", "plain") or transformed() or not read:
        return in_full_precision(scam_reference.scam, x, *mlp, conv_weight, norm=norm and _in_own_precision(norm))
    check_batch_statistics(x, norm)
    affine = (None, None) if norm is None else (norm.weight, norm.bias)
    return scam_autograd.scam(x, ScamParameters(*mlp, conv_weight, *affine), norm, chosen, share)


@takes_subclasses
def channel_attention(
    x: Tensor,
    fc1_weight: Tensor,
    fc2_weight: Tensor,
    fc1_bias: Tensor | None = None,
    fc2_bias: Tensor | None = None,
) -> Tensor:
    """Return the first half of `scam`, which has these arguments: x (B, C, H, W) times a gate per channel (Eq. 7)."""
    check_input(x, fc1_weight.shape[1], "ChannelAttention")
    check_devices(x, (fc1_weight, fc1_bias, fc2_weight, fc2_bias), MLP_NAMES, "ChannelAttention")
    return in_full_precision(scam_reference.channel_attention, x, fc1_weight, fc1_bias, fc2_weight, fc2_bias)


@takes_subclasses
def spatial_attention(x: Tensor, conv_weight: Tensor, norm: nn.Module | None = None) -> Tensor:
    """Return the second half of `scam`, which has these arguments: x (B, C, H, W) times a gate per pixel (Eq. 8)."""
    check_input(x, None, "SpatialAttention")
    check_devices(x, (conv_weight, *_tensors(norm)), ("conv.weight", *NORM_NAMES), "SpatialAttention")
    return in_full_precision(scam_reference.spatial_attention, x, conv_weight, norm=norm and _in_own_precision(norm))


def _tensors(norm: nn.Module | None) -> tuple[Tensor | None, ...]:
    """Return a normalisation's tensors in the order of `NORM_NAMES`, None for what it does not have."""
    if norm is None:
        return ()
    parameters, buffers = norm._parameters, norm._buffers
    count = buffers.get("num_batches_tracked") if norm.training else None
    count = count if count is not None and count.is_meta else None  # on any device, but on meta it counts nothing
    affine = parameters.get("weight"), parameters.get("bias")
    return *affine, buffers.get("running_mean"), buffers.get("running_var"), count


def _in_own_precision(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return the module as a function that computes in its parameters' dtype and returns its input's."""
    dtypes = [p.dtype for p in module.parameters() if p.is_floating_point()]
    return (lambda x: module(x.to(dtypes[0])).to(x.dtype)) if dtypes else module


def _is_mixed_by_kernels(backend: str, x: Tensor, share: Tensor) -> bool:
    """Return whether a backend has kernels that mix the attention in, and they may: not in traced graphs."""
    return backend == "native" and type(share) in (Tensor, nn.Parameter) and share.device == x.device and not traced(x)


def _is_small(x: Tensor, params: Sequence[Tensor | None], limits: Small) -> bool:
    # A traced graph must not depend on the input's size.
    if torch.compiler.is_compiling() or x.device.type != "cpu":
        return False
    training = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, *params))
    return x.numel() <= (limits.training if training else limits.inference)


def in_full_precision(run: Callable[..., Tensor], x: Tensor, *args: object, **functions: object) -> Tensor:
    """Return run(x, *args, **functions) in the accumulation dtype without autocast, like x in dtype and memory format.

    Functions are not among `args`: Dynamo of torch 2.6 cannot ask whether they are tensors.
    """
    dtype = accumulation_dtype(x.dtype)
    args = tuple(a.to(dtype) if isinstance(a, (Tensor, EmamParameters)) else a for a in args)
    with without_autocast("cpu" if x.is_meta else x.device.type):  # "meta" has no autocast
        out = run(x.to(dtype), *args, **functions).to(x.dtype)
    if transformed():  # vmap has no memory formats
        return out
    channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return out.contiguous(memory_format=torch.channels_last) if channels_last else out


def no_view(out: Tensor) -> Tensor:
    """Return `out` as no view: backbones change outputs in place, and a view would lose its hooks then."""
    if tracing.exporting():  # no hooks there
        return out
    return torch.ops.aten._unsafe_view(out, out.shape)
