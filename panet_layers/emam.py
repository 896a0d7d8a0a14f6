"""EMAM, the efficient multi-scale attention module."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from . import functional
from .backends import check_backend
from .checks import check_convolutions
from .tracing import fx_leaf


class EMAM(nn.Module):
    """Efficient multi-scale attention (PANet paper, section III-B, Eq. 2-5; Ouyang et al., ICASSP 2023).

    The channels are split into groups; each group's map is weighed, pixel by pixel, by a gate made from its row and
    column averages (1x1 branch) and its 3x3 neighbourhoods (3x3 branch), the two branches attending to each other.

    Args:
        channels: channels C of the input; divisible by `groups`.
        groups: groups G; 8 in the paper.
        eps: added to the variance of the group normalisation.
        backend: "reference" (the paper's formulas), "collapsed" (exact and fast; small inputs by the formulas, where
            they are faster), "triton" (fused kernels; an NVIDIA GPU of compute capability 8.0 or later), or None for
            the process's choice (see `set_backend`).
        device, dtype: of the parameters, as in torch.nn.

    Shapes: input (B, C, H, W), any B >= 0, H, W >= 1; output the same, in the input's dtype and memory format.
    The parameters have the names and shapes of the published EMA, whose state_dicts load unchanged.

    Raises:
        ValueError: channels not divisible by groups, non-positive sizes, an unknown backend, or, on calling, an input
            that is not (B, C, H, W).
        TypeError: on calling, an input that is not floating-point.
        RuntimeError: on calling, backend "triton" where it can't run.
    """

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
        if channels < 1 or groups < 1:
            raise ValueError(f"channels and groups must be positive, got channels={channels}, groups={groups}")
        if channels % groups:
            raise ValueError(f"channels must be divisible by groups, got channels={channels}, groups={groups}")
        if not eps > 0:
            raise ValueError(f"eps must be positive, got {eps}")
        check_backend(backend)
        self.channels, self.groups, self.eps, self.backend = channels, groups, eps, backend
        width = channels // groups
        self.conv1x1 = nn.Conv2d(width, width, 1, device=device, dtype=dtype)
        self.conv3x3 = nn.Conv2d(width, width, 3, padding=1, device=device, dtype=dtype)
        self.gn = nn.GroupNorm(width, width, eps, device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        """Draw the parameters anew, as their torch.nn classes do."""
        for part in (self.conv1x1, self.conv3x3, self.gn):
            part.reset_parameters()

    @fx_leaf
    def forward(self, x: Tensor) -> Tensor:
        conv1x1, conv3x3, gn = self.conv1x1, self.conv3x3, self.gn
        check_convolutions(self, conv1x1, conv3x3)
        return functional.emam(
            *(x, conv1x1.weight, conv1x1.bias, conv3x3.weight, conv3x3.bias, gn.weight, gn.bias),  # type: ignore[arg-type]
            groups=self.groups,
            eps=self.eps,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        backend = f", backend={self.backend!r}" if self.backend else ""
        return f"{self.channels}, groups={self.groups}, eps={self.eps}{backend}"
