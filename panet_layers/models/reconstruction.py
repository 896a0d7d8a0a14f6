"""The reconstruction branch (RECCE, CVPR 2022): white noise on the input, and the decoder that reconstructs images."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.models.xception import Block, SeparableConv2d
from torch import Tensor, nn

from .. import tracing
from ..parts import all_called, is_read, is_unchanged


def add_white_noise(images: Tensor, std: float) -> Tensor:
    """Return images (B, 3, H, W) with Gaussian noise (Eq. 1), each with probability 1/2, clipped to [-1, 1]."""
    # docs/choices.md: noise
    noise = torch.randn_like(images, memory_format=torch.contiguous_format)  # drawn six times as fast as in NHWC
    noisy = (images + std * noise).clamp(-1, 1)
    chosen = torch.rand(images.shape[0], 1, 1, 1, device=images.device) < 0.5
    return torch.where(chosen, noisy, images)


class Doubling(nn.Sequential):
    """(B, C, h, w) -> (B, D, 2h, 2w): nearest upsampling, separable convolution, batch normalisation, ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.Upsample(scale_factor=2, mode="nearest"),
            SeparableConv2d(in_channels, out_channels, 3, 1, 1),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, features: Tensor) -> Tensor:
        parts: list[Any] = list(self)
        upsample, separable, *others = parts
        # Measured on CPUs only; the runtimes of exported graphs differ.
        read = features.device.type == "cpu" and not tracing.exporting() and not all_called()
        if not (read and is_unchanged(upsample, nn.Upsample) and _is_read(separable)):
            return super().forward(features)
        features = separable.pointwise(doubled_and_convolved(features, separable.conv1.weight))
        for module in others:
            features = module(features)
        return features


def doubled_and_convolved(features: Tensor, weight: Tensor) -> Tensor:
    """Return nearest upsampling by 2 and a depthwise 3x3 convolution, weight (C, 1, 3, 3), of features (B, C, h, w).

    Four pixels are equal, so the sums of their weights are multiplied once: a transposed convolution of stride 2. The
    upsampled map, four times as large, is never stored.
    """
    sums = F.avg_pool2d(weight.flip(2, 3), 2, stride=1, padding=1, divisor_override=1)
    return F.conv_transpose2d(features, sums, stride=2, padding=1, groups=len(weight))


def _is_read(separable: Any) -> bool:
    """Return whether a separable convolution is as it was made, so that its depthwise weight says what it computes."""
    return (
        is_unchanged(separable, SeparableConv2d)
        and is_read(separable.conv1, nn.Conv2d)
        and separable.conv1.bias is None
    )


class ReconstructionDecoder(nn.Module):
    """Common features (B, C, h, w) -> the reconstructed image and the two feature maps before it.

    Returns reconstruction (B, 3, H, W) in [-1, 1], features_x2 (B, widths[0], 2h, 2w) and
    features_x4 (B, widths[1], 4h, 4w).
    """

    def __init__(self, in_channels: int, widths: tuple[int, int, int] = (256, 128, 64)) -> None:
        super().__init__()
        self.up1 = Doubling(in_channels, widths[0])
        self.block1 = Block(widths[0], widths[0], 3)
        self.up2 = Doubling(widths[0], widths[1])
        self.block2 = Block(widths[1], widths[1], 3)
        self.up3 = Doubling(widths[1], widths[2])
        self.to_rgb = nn.Conv2d(widths[2], 3, 1, bias=False)

    def forward(self, common: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        features_x2 = self.block1(self.up1(common))
        features_x4 = self.block2(self.up2(features_x2))
        image = torch.tanh(self.to_rgb(self.up3(features_x4)))
        return F.interpolate(image, size, mode="bilinear", align_corners=True), features_x2, features_x4
