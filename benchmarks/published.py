"""CBAM as its paper writes it (Woo et al., ECCV 2018, section 3), one eager operation after the other: a baseline."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PublishedCBAM(nn.Module):
    """Channel gate from average and max pooling through one biased MLP, then spatial gate with batch normalisation.

    The parameters are those of `SCAM(channels, reduction, mlp_bias=True, spatial_norm="batch")`, in its order.
    """

    def __init__(self, channels: int, reduction: int = 16, kernel_size: int = 7) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)
        self.norm = nn.BatchNorm2d(1, eps=1e-5, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        whole = x.shape[2:]
        average = self.mlp(F.avg_pool2d(x, whole).flatten(1))
        maximum = self.mlp(F.max_pool2d(x, whole).flatten(1))
        x = x * torch.sigmoid(average + maximum)[:, :, None, None].expand_as(x)
        pooled = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True).values], dim=1)
        return x * torch.sigmoid(self.norm(self.conv(pooled)))
