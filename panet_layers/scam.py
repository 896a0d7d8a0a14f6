"""SCAM, the spatial and channel attention module, and its two halves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from . import calling, functional, parts
from .backends import check_backend, check_can_call
from .checks import check_count
from .published_names import rename_channel_keys, rename_scam_keys, rename_spatial_keys
from .tracing import fx_leaf


class ChannelAttention(nn.Module):
    """Channel attention (PANet paper, Eq. 7; CBAM, Woo et al., ECCV 2018): x times a gate for each channel.

    Args:
        channels: channels C of the input.
        reduction: the hidden width is max(1, C // reduction).
        mlp_bias: whether the two linear layers have biases. The published CBAM has them, the paper's Eq. 7 does not.
        device, dtype: of the parameters, as in torch.nn.

    Shapes: input (B, C, H, W), output the same. Raises as `SCAM` does.
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        *,
        mlp_bias: bool = False,  # docs/choices.md: SCAM
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_count("channels", channels)
        check_count("reduction", reduction)
        self.channels, self.reduction = channels, reduction
        hidden = max(1, channels // reduction)
        self.fc1 = nn.Linear(channels, hidden, bias=mlp_bias, device=device, dtype=dtype)
        self.fc2 = nn.Linear(hidden, channels, bias=mlp_bias, device=device, dtype=dtype)
        self.register_load_state_dict_pre_hook(rename_channel_keys)

    def reset_parameters(self) -> None:
        """Draw the parameters again, as nn.Linear does."""
        self.fc1.reset_parameters()
        self.fc2.reset_parameters()

    @fx_leaf
    def forward(self, x: Tensor) -> Tensor:
        if self.called_part():
            return calling.channel_attention(x, self)
        fc1, fc2 = self.fc1, self.fc2
        return functional.channel_attention(x, fc1.weight, fc2.weight, fc1.bias, fc2.bias)

    def called_part(self) -> str:
        """Return the name of a part that must be called as a module, or "every part"; "" where all weights are read."""
        return parts.EVERY_PART if parts.all_called() else self._changed_part()

    def _changed_part(self) -> str:
        own = self._modules  # quicker than attributes
        if not parts.is_read(own.get("fc1"), nn.Linear):
            return "fc1"
        return "" if parts.is_read(own.get("fc2"), nn.Linear) else "fc2"

    def extra_repr(self) -> str:
        return f"{self.channels}, reduction={self.reduction}"


class SpatialAttention(nn.Module):
    """Spatial attention (PANet paper, Eq. 8; CBAM, Woo et al., ECCV 2018): x times a gate for each pixel.

    Args:
        kernel_size: odd size of the convolution over the [mean, max] maps.
        norm: None for the paper's plain convolution, "batch" for the BatchNorm2d(eps=1e-5, momentum=0.01) of CBAM.
        device, dtype: of the parameters, as in torch.nn.

    Shapes: input (B, C, H, W) for any C, output the same. Raises as `SCAM` does.
    """

    def __init__(
        self,
        kernel_size: int = 7,  # docs/choices.md: SCAM
        *,
        norm: str | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_count("kernel_size", kernel_size)
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        if norm not in (None, "batch"):
            raise ValueError(f"the spatial norm must be None or 'batch', got {norm!r}")
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False, device=device, dtype=dtype)
        self.bn = nn.BatchNorm2d(1, eps=1e-5, momentum=0.01, device=device, dtype=dtype) if norm else None
        self.register_load_state_dict_pre_hook(rename_spatial_keys)

    def reset_parameters(self) -> None:
        """Draw the parameters again, as nn.Conv2d and nn.BatchNorm2d do."""
        self.conv.reset_parameters()
        if self.bn is not None:
            self.bn.reset_parameters()

    @fx_leaf
    def forward(self, x: Tensor) -> Tensor:
        if self.called_part():
            return calling.spatial_attention(x, self)
        return functional.spatial_attention(x, self.conv.weight, self.bn)

    def called_part(self) -> str:
        """Return the name of a part that must be called as a module, or "every part"; "" where all weights are read."""
        return parts.EVERY_PART if parts.all_called() else self._changed_part()

    def _changed_part(self) -> str:
        own = self._modules
        if not parts.is_convolution(own.get("conv"), 2, 1, None, bias=False):
            return "conv"
        return "" if parts.is_batch_norm(own.get("bn")) else "bn"


class SCAM(nn.Module):
    """Spatial and channel attention (PANet paper, section III-C, Eq. 6-8; CBAM, Woo et al., ECCV 2018).

    `ChannelAttention`, then `SpatialAttention`, in one operator. The defaults are the paper's equations;
    `mlp_bias=True, spatial_norm="batch"` is the published CBAM, `spatial_norm="batch"` alone is timm's.

    Args:
        channels: channels C of the input.
        reduction: the hidden width of the channel branch is max(1, C // reduction).
        kernel_size: odd size of the spatial branch's convolution over the [mean, max] maps.
        mlp_bias: whether the channel branch's two linear layers have biases.
        spatial_norm: None, or "batch" for a BatchNorm2d(eps=1e-5, momentum=0.01) after the convolution.
        backend: as in `EMAM`.
        device, dtype: of the parameters, as in torch.nn.

    Shapes: input (B, C, H, W), any B >= 0, H, W >= 1; output the same, in the input's dtype and memory format.
    `load_state_dict` takes this module's keys, the published CBAM's and timm's `CbamModule`'s.

    Raises:
        ValueError: a size is no positive int, kernel_size is even, the norm or backend is unknown, or, in a call, the
            input is not (B, C, H, W).
        TypeError, RuntimeError: as in `EMAM`.
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        *,
        kernel_size: int = 7,
        mlp_bias: bool = False,
        spatial_norm: str | None = None,
        backend: str | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_backend(backend)
        self.channels, self.backend = channels, backend
        self.channel = ChannelAttention(channels, reduction, mlp_bias=mlp_bias, device=device, dtype=dtype)
        self.spatial = SpatialAttention(kernel_size, norm=spatial_norm, device=device, dtype=dtype)
        self.register_load_state_dict_pre_hook(rename_scam_keys)

    def reset_parameters(self) -> None:
        """Draw the parameters again, as their torch.nn classes do."""
        self.channel.reset_parameters()
        self.spatial.reset_parameters()

    @fx_leaf
    def forward(self, x: Tensor) -> Tensor:
        if part := self.called_part():
            check_can_call(self.backend, self, part)
            return self.spatial(self.channel(x))
        return self.mixed(x, None)

    def mixed(self, x: Tensor, share: Tensor | None) -> Tensor:
        """Return lerp(x, self(x), share), or self(x) without a share, where `called_part` returns "".

        It runs no hooks.
        """
        own: Any = self._modules  # quicker than attributes
        channel, spatial = own["channel"]._modules, own["spatial"]._modules
        (fc1, fc1_bias), (fc2, fc2_bias) = map(parts.weight_and_bias, (channel["fc1"], channel["fc2"]))
        conv, _ = parts.weight_and_bias(spatial["conv"])
        biases_and_norm = fc1_bias, fc2_bias, spatial.get("bn")
        return functional.scam(x, fc1, fc2, conv, *biases_and_norm, backend=self.backend, share=share)

    def called_part(self) -> str:
        """Return the name of a part that must be called as a module, or "every part"; "" where all weights are read."""
        if parts.all_called():
            return parts.EVERY_PART
        own: Any = self._modules
        channel, spatial = own.get("channel"), own.get("spatial")
        if not parts.is_unchanged(channel, ChannelAttention):
            return "channel"
        if not parts.is_unchanged(spatial, SpatialAttention):
            return "spatial"
        if part := channel._changed_part():
            return f"channel.{part}"
        part = spatial._changed_part()
        return part and f"spatial.{part}"

    def extra_repr(self) -> str:
        return f"backend={self.backend!r}" if self.backend else ""
