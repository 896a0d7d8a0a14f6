"""Checks of what a layer or a model is given: its arguments, its input, the devices, enough pixels for statistics."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor, nn


def check_count(name: str, value: Any) -> None:
    """Raise ValueError unless a constructor's argument is a positive int."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a positive int, got {value!r}")


def check_positive(name: str, value: Any) -> None:
    """Raise ValueError unless a constructor's argument is a finite number above 0."""
    if not isinstance(value, Real) or not 0 < float(value) < math.inf:
        raise ValueError(f"{name} must be a positive number, got {value!r}")


def check_range(name: str, value: Any, low: float, high: float = math.inf) -> None:
    """Raise ValueError unless a constructor's argument is a number with low <= value < high."""
    if not isinstance(value, Real) or isinstance(value, bool) or not low <= float(value) < high:
        upper = "" if high == math.inf else f" and below {high}"
        raise ValueError(f"{name} must be a finite number of at least {low}{upper}, got {value!r}")


def check_tensor(name: str, value: Any, shape: str) -> None:
    """Raise TypeError unless a value is a tensor, or stands in for one, as a tracer's do.

    shape: the shape that is wanted, for the message.
    """
    if not hasattr(type(value), "__torch_function__"):
        raise TypeError(f"{name} must be a tensor of shape {shape}, got a {type(value).__name__}")


def check_module(model: Any) -> None:
    """Raise TypeError unless a model is an nn.Module."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {model!r}")


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
