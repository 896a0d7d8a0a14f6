"""Reconstruction-guided attention (RECCE, CVPR 2022): attention to the regions where the reconstruction fails."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class GuidedAttention(nn.Module):
    """map * ReLU(BN(conv(features))) + dropout(features), where the map comes from the reconstruction's error."""

    def __init__(self, channels: int, drop_rate: float = 0.2) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.Conv2d(3, 3, 3, padding=1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(3, 1, 1, bias=False),
            nn.Sigmoid(),
        )
        self.transform = nn.Sequential(
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )
        self.dropout = nn.Dropout(drop_rate)

    def attention_map(self, images: Tensor, reconstruction: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the map (B, 1, *size) in [0, 1] of images and their reconstruction, both (B, 3, H, W)."""
        error = (images - reconstruction).abs()
        return self.gate(F.interpolate(error, size, mode="bilinear", align_corners=True))

    def forward(self, features: Tensor, images: Tensor, reconstruction: Tensor) -> Tensor:
        attention = self.attention_map(images, reconstruction, (features.shape[2], features.shape[3]))
        return attention * self.transform(features) + self.dropout(features)
