"""The published EMA and CBAM with their parameters' names, and modules that only look like them."""

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.published import PublishedEMA


def host(*layers):
    """A small network around layers of 32 channels."""
    return nn.Sequential(nn.Conv2d(3, 32, 3), *layers, nn.ReLU(), nn.Conv2d(32, 2, 1))


class EMA(PublishedEMA):
    """The published EMA: its arguments and its parameters' names."""

    def __init__(self, channels, factor=8):
        super().__init__(channels, factor)


class TopHeavyEMA(EMA):
    """The same parameters, another function."""

    def forward(self, x):
        return super().forward(x) + 0.01 * x


class ChannelGate(nn.Module):
    def __init__(self, channels, reduction):
        super().__init__()
        hidden = channels // reduction
        self.mlp = nn.Sequential(nn.Flatten(), nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))

    def forward(self, x):
        pooled = F.adaptive_avg_pool2d(x, 1), F.adaptive_max_pool2d(x, 1)
        return x * sum(self.mlp(p) for p in pooled).sigmoid()[:, :, None, None]


class BasicConv(nn.Module):
    def __init__(self, kernel_size):
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)
        self.bn = nn.BatchNorm2d(1, eps=1e-5, momentum=0.01)

    def forward(self, x):
        return self.bn(self.conv(x))


class SpatialGate(nn.Module):
    def __init__(self):
        super().__init__()
        self.spatial = BasicConv(7)

    def forward(self, x):
        return x * self.spatial(torch.stack([x.amax(1), x.mean(1)], dim=1)).sigmoid()


class CBAM(nn.Module):
    """The published CBAM, whose spatial gate sees [max, mean]."""

    def __init__(self, channels, reduction=16):
        super().__init__()
        self.ChannelGate, self.SpatialGate = ChannelGate(channels, reduction), SpatialGate()

    def forward(self, x):
        return self.SpatialGate(self.ChannelGate(x))


class SpatialFirst(CBAM):
    """CBAM in the other order: the same parameters, another function."""

    def forward(self, x):
        return self.ChannelGate(self.SpatialGate(x))
