"""EMA and CBAM as their papers describe them, in torch.nn operations: the baselines."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PublishedEMA(nn.Module):
    """Ouyang et al., ICASSP 2023, section 2, in torch.nn's pooling, normalisation and softmax.

    It has the parameters of `EMAM(channels, groups)`, in the same order.
    """

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        width = channels // groups
        self.groups = groups
        self.conv1x1 = nn.Conv2d(width, width, 1)
        self.conv3x3 = nn.Conv2d(width, width, 3, padding=1)
        self.gn = nn.GroupNorm(width, width)
        self.pool_rows, self.pool_columns = nn.AdaptiveAvgPool2d((None, 1)), nn.AdaptiveAvgPool2d((1, None))
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        grouped = x.reshape(batch * self.groups, -1, height, width)
        joint = torch.cat([self.pool_rows(grouped), self.pool_columns(grouped).transpose(2, 3)], dim=2)
        rows, columns = self.conv1x1(joint).split([height, width], dim=2)
        branch1 = self.gn(grouped * rows.sigmoid() * columns.transpose(2, 3).sigmoid())
        branch2 = self.conv3x3(grouped)
        attention = self._matched(branch1, branch2) + self._matched(branch2, branch1)
        return (grouped * attention.view(-1, 1, height, width).sigmoid()).reshape(x.shape)

    def _matched(self, query: Tensor, values: Tensor) -> Tensor:
        weights = self.pool(query).flatten(2).transpose(1, 2).softmax(dim=-1)
        return torch.matmul(weights, values.flatten(2))


class PublishedCBAM(nn.Module):
    """Woo et al., ECCV 2018, section 3: a channel gate from one MLP with biases, then a normalised spatial gate.

    It has the parameters of `SCAM(channels, reduction, mlp_bias=True, spatial_norm="batch")`, in the same order.
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
