"""EMAM, the efficient multi-scale attention module."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from . import calling, functional, parts
from .backends import check_backend, check_can_call
from .checks import check_count, check_positive, suggest_divisor
from .tracing import fx_leaf


class EMAM(nn.Module):
    """Efficient multi-scale attention (PANet paper, section III-B, Eq. 2-5; Ouyang et al., ICASSP 2023).

    The channels are split into groups. A gate multiplies each pixel of a group; it is computed from the group's row and
    column averages (1x1 branch) and its 3x3 neighbourhoods (3x3 branch), and each branch weighs the other's channels.

    Args:
        channels: channels C of the input; a multiple of `groups`.
        groups: groups G; 8 in the paper.
        eps: added to the variance of the group normalisation.
        backend: "reference" (the paper's formulas), "collapsed" (the same result, faster), "native" (compiled kernels
            for CPUs), "triton" (fused kernels for NVIDIA GPUs of compute capability 8.0 or later), "cuda" (other
            kernels for these GPUs, which read a contiguous input without copying it; not timed yet), or None for the
            process's choice (see `set_backend`).
        device, dtype: of the parameters, as in torch.nn.

    Shapes: input (B, C, H, W), any B >= 0, H, W >= 1; output the same, in the input's dtype and memory format.
    The parameters have the names and shapes of the published EMA, whose state_dicts load unchanged.

    Raises:
        ValueError: `groups` does not divide `channels`, an argument is no positive number, the backend is unknown, or,
            in a call, the input is not (B, C, H, W).
        TypeError: in a call, the input is no floating-point tensor.
        RuntimeError: in a call, the backend that is named cannot run.
    """

    __jit_unused_properties__ = ["eps"]  # noqa: RUF012 (torch.jit reads a list)

    def __init__(
        self,
        channels: int,
        groups: int = 8,
        *,
        eps: float = 1e-5,
        backend: str | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_count("channels", channels)
        check_count("groups", groups)
        if channels % groups:
            raise ValueError(
                f"groups={groups} does not divide channels={channels}; {suggest_divisor(groups, channels)}"
            )
        check_positive("eps", eps)
        check_backend(backend)
        if groups == channels > 1:
            warnings.warn(
                f"EMAM(channels={channels}, groups={groups}) has one channel in each group, so that no channel is "
                "weighed against another; the second argument is the number of groups, not of output channels",
                stacklevel=2,
            )
        self.channels, self.groups, self.backend = channels, groups, backend
        width = channels // groups
        self.conv1x1 = nn.Conv2d(width, width, 1, device=device, dtype=dtype)
        self.conv3x3 = nn.Conv2d(width, width, 3, padding=1, device=device, dtype=dtype)
        self.gn = nn.GroupNorm(width, width, eps, device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        """Draw the parameters again, as their torch.nn classes do."""
        for part in (self.conv1x1, self.conv3x3, self.gn):
            part.reset_parameters()

    @property
    def eps(self) -> float:
        """What is added to the variance: the `eps` of `gn`."""
        return getattr(self.gn, "eps", math.nan)  # another module than a normalisation may have none

    @eps.setter
    def eps(self, eps: float) -> None:
        self.gn.eps = eps

    @fx_leaf
    def forward(self, x: Tensor) -> Tensor:
        if part := self.called_part():
            check_can_call(self.backend, self, part)
            return calling.emam(x, self)
        return self.mixed(x, None)

    def mixed(self, x: Tensor, share: Tensor | None) -> Tensor:
        """Return lerp(x, self(x), share), or self(x) without a share, where `called_part` returns "".

        It runs no hooks.
        """
        own: Any = self._modules  # quicker than attributes
        conv1x1, conv3x3, gn = own["conv1x1"], own["conv3x3"], own["gn"]
        weights = (*parts.weight_and_bias(conv1x1), *parts.weight_and_bias(conv3x3), *parts.weight_and_bias(gn))
        return functional.emam(x, *weights, groups=self.groups, eps=gn.eps, backend=self.backend, share=share)

    def called_part(self) -> str:
        """Return the name of a part that must be called as a module, or "every part"; "" where all weights are read."""
        if parts.all_called():
            return parts.EVERY_PART
        own, width = self._modules, self.channels // self.groups  # quicker than attributes
        if not parts.is_convolution(own.get("conv1x1"), width, width, 1, bias=True):
            return "conv1x1"
        if not parts.is_convolution(own.get("conv3x3"), width, width, 3, bias=True):
            return "conv3x3"
        return "" if parts.is_channel_norm(own.get("gn"), width) else "gn"

    def extra_repr(self) -> str:
        backend = f", backend={self.backend!r}" if self.backend else ""
        return f"{self.channels}, groups={self.groups}, eps={self.eps}{backend}"
