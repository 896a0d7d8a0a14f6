"""Checks of what a layer is given: its input, one device for all tensors, enough pixels for batch statistics."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def check_input(x: Tensor, channels: int | None, layer: str) -> None:
    """Raise ValueError or TypeError where x is not a floating-point (B, channels, H, W), with any C for None."""
    if torch.jit.is_tracing():  # sizes are tensors there, and comparing them gives a warning
        return
    # Not `channels not in (None, x.shape[1])`: to torch 2.11's Dynamo a dynamic size is in no tuple.
    if x.dim() != 4 or (channels is not None and x.shape[1] != channels):
        raise ValueError(f"{layer} needs an input of shape (B, {channels or 'C'}, H, W), got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"{layer} needs a floating-point input, got {x.dtype}; convert it, as by x.float()")
    if 0 in x.shape[1:]:
        raise ValueError(f"{layer} needs at least one channel and one pixel, got {tuple(x.shape)}")


def check_devices(x: Tensor, parameters: Iterable[Tensor | None], names: Iterable[str], layer: str) -> None:
    """Raise RuntimeError where a parameter is on another device than x: a registered operator may not notice."""
    device = x.device
    for parameter, name in zip(parameters, names):
        if parameter is not None and parameter.device != device:
            meta = "; a tensor on meta has no values" if "meta" in (device.type, parameter.device.type) else ""
            raise RuntimeError(
                f"{layer} needs its input and parameters on one device, got the input on {device} and {name} on "
                f"{parameter.device}{meta}; move one of them, as by layer.to(x.device), or load the parameters' values"
            )


def check_share(share: Tensor | None) -> None:
    """Raise TypeError or ValueError where a share is no floating-point tensor, or is not () or (1,)."""
    if share is None:
        return
    if not isinstance(share, Tensor) or not share.is_floating_point():
        given = share.dtype if isinstance(share, Tensor) else f"{type(share).__name__} {share!r}"
        raise TypeError(f"share must be a floating-point tensor, such as torch.tensor([0.5]), got {given}")
    if share.dim() > 1 or share.numel() != 1:
        raise ValueError(f"share must be one number, of shape () or (1,), got shape {tuple(share.shape)}")


def suggest_divisor(groups: int, channels: int) -> str:
    """Return the end of an error message where groups does not divide channels: the next smaller number that does."""
    return f"choose a divisor, such as {next(n for n in range(min(groups, channels), 0, -1) if channels % n == 0)}"


def check_batch_statistics(x: Tensor, norm: nn.BatchNorm2d | None) -> None:
    """Raise ValueError where SCAM's batch normalisation takes statistics of a single pixel, which has no variance."""
    if norm is None or x.shape[0] * x.shape[2] * x.shape[3] != 1:
        return
    if norm.training or norm.running_mean is None:
        raise ValueError(
            f"SCAM's batch normalisation needs more than one pixel to compute its statistics, got {tuple(x.shape)}; "
            "use a larger batch or map, or eval mode with running statistics"
        )
