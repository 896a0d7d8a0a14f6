"""The reconstruction branch (RECCE, CVPR 2022): white noise on the input, and the decoder that reconstructs images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.models.xception import Block, SeparableConv2d
from torch import Tensor, nn


def add_white_noise(images: Tensor, std: float) -> Tensor:
    """Return images (B, 3, H, W) with Gaussian noise (Eq. 1), each with probability 1/2, clipped to [-1, 1]."""
    # docs/choices.md: noise
    noisy = (images + std * torch.randn_like(images)).clamp(-1, 1)
    chosen = torch.rand(images.shape[0], 1, 1, 1, device=images.device) < 0.5
    return torch.where(chosen, noisy, images)


def _double(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="nearest"),
        SeparableConv2d(in_channels, out_channels, 3, 1, 1),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class ReconstructionDecoder(nn.Module):
    """Common features (B, C, h, w) -> the reconstructed image and the two feature maps before it.

    Returns reconstruction (B, 3, H, W) in [-1, 1], features_x2 (B, widths[0], 2h, 2w) and
    features_x4 (B, widths[1], 4h, 4w).
    """

    def __init__(self, in_channels: int, widths: tuple[int, int, int] = (256, 128, 64)) -> None:
        super().__init__()
        self.up1 = _double(in_channels, widths[0])
        self.block1 = Block(widths[0], widths[0], 3)
        self.up2 = _double(widths[0], widths[1])
        self.block2 = Block(widths[1], widths[1], 3)
        self.up3 = _double(widths[1], widths[2])
        self.to_rgb = nn.Conv2d(widths[2], 3, 1, bias=False)

    def forward(self, common: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        features_x2 = self.block1(self.up1(common))
        features_x4 = self.block2(self.up2(features_x2))
        image = torch.tanh(self.to_rgb(self.up3(features_x4)))
        return F.interpolate(image, size, mode="bilinear", align_corners=True), features_x2, features_x4
