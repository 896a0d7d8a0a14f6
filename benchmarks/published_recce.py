"""RECCE (Cao et al., CVPR 2022) in the structure of its published code: the detector's baseline.

Its graph reasoning handles one vertex after the other, in a Python loop (361 of them at 299x299), and embeds every
neighbour. The encoder is timm's Xception; every layer is torch.nn's or timm's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.models.xception import Block, SeparableConv2d
from torch import Tensor, nn

from panet_layers.models import PANetOutput
from panet_layers.models.encoder import XceptionEncoder, find_variant


class PublishedRECCE(nn.Module):
    """The function of `PANet(emam=None, scam=None)` without dropout and noise; its parameters, in the same order."""

    def __init__(self, variant: str) -> None:
        super().__init__()
        widths = find_variant(variant)
        self.encoder = XceptionEncoder(widths)
        self.decoder = nn.ModuleList(_decoder(widths.common, widths.decoder))
        self.reasoning = VertexLoop(widths.common, *widths.decoder[:2], widths.graph)
        self.error_map = nn.Sequential(_conv(3, 3, 3), nn.ReLU(), _conv(3, 1, 1), nn.Sigmoid())
        self.transform = nn.Sequential(
            _conv(widths.common, widths.common, 1), nn.BatchNorm2d(widths.common), nn.ReLU(inplace=True)
        )
        self.classifier = nn.Linear(widths.exit[-1], 1)

    def forward(self, images: Tensor) -> PANetOutput:
        maps = [self.encoder.common(images)]
        for stage in self.decoder:
            maps.append(stage(maps[-1]))
        common, features_x2, features_x4, image = maps
        reconstruction = F.interpolate(image, images.shape[2:], mode="bilinear", align_corners=True)

        features = self.encoder.blocks(common, 5, 7)
        features = features + self.reasoning(features, features_x2, features_x4)
        features = self.encoder.blocks(features, 8, 8)
        error = (images - reconstruction).abs()
        error = F.interpolate(error, features.shape[2:], mode="bilinear", align_corners=True)
        features = self.error_map(error) * self.transform(features) + features

        pooled = F.adaptive_avg_pool2d(self.encoder.final(features), 1).flatten(1)
        embeddings = tuple(F.normalize(F.adaptive_avg_pool2d(x, 1).flatten(1)) for x in maps[:3])
        return PANetOutput(self.classifier(pooled), reconstruction, embeddings)


class VertexLoop(nn.Module):
    """Graph reasoning: each pixel of (B, C, h, w) with its 2x2 and 4x4 neighbours in the decoder's maps."""

    def __init__(self, channels: int, channels_x2: int, channels_x4: int, hidden: int) -> None:
        super().__init__()
        self.embed_vertices = nn.Sequential(_conv(channels, hidden, 1), nn.ReLU(), _conv(hidden, hidden, 1))
        self.neighbours_x2 = _Neighbours(channels, channels_x2, hidden, 2)
        self.neighbours_x4 = _Neighbours(channels, channels_x4, hidden, 4)
        self.project = nn.Sequential(_conv(3 * hidden, channels, 1), nn.ReLU(), _conv(channels, channels, 1))

    def forward(self, vertices: Tensor, features_x2: Tensor, features_x4: Tensor) -> Tensor:
        embedded = self.embed_vertices(vertices)
        gates = [1 - torch.sigmoid(part.gate(vertices)) for part in (self.neighbours_x2, self.neighbours_x4)]
        vectors = [self.neighbours_x2.embed(features_x2), self.neighbours_x4.embed(features_x4)]
        height, width = vertices.shape[2:]
        updated = []
        for number in range(height * width):
            vertex = embedded[:, :, number // width, number % width]
            message_x2 = self.neighbours_x2.message(vertex, vectors[0][:, number])
            message_x4 = self.neighbours_x4.message(vertex, vectors[1][:, number])
            gate_x2, gate_x4 = (gate[:, :, number // width, number % width] for gate in gates)
            updated.append(torch.cat([gate_x2 * message_x2, gate_x4 * message_x4, vertex], dim=1))
        joined = torch.stack(updated, dim=2).unflatten(2, (height, width))
        return self.project(torch.sigmoid(joined))


class _Neighbours(nn.Module):
    """The neighbours of every vertex in one map, and their message to one vertex."""

    def __init__(self, vertex_channels: int, channels: int, hidden: int, ratio: int) -> None:
        super().__init__()
        self.ratio = ratio
        self.gate = _conv(vertex_channels, hidden, 1)
        self.expand = nn.Linear(channels, hidden, bias=False)
        self.project = nn.Linear(hidden, hidden, bias=False)
        self.score = nn.Linear(2 * hidden, 1, bias=False)

    def embed(self, features: Tensor) -> Tensor:
        """(B, N, ratio h, ratio w) -> (B, h w, ratio^2, D): the embedded neighbours of each vertex."""
        patches = F.unfold(features, self.ratio, stride=self.ratio).unflatten(1, (features.shape[1], -1))
        return self.project(F.relu(self.expand(patches.permute(0, 3, 2, 1))))

    def message(self, vertex: Tensor, neighbours: Tensor) -> Tensor:
        """One vertex (B, D) and its neighbours (B, ratio^2, D) -> their weighted sum (B, D)."""
        pairs = torch.cat([vertex[:, None].expand_as(neighbours), neighbours], dim=2)
        weights = torch.softmax(F.relu(self.score(pairs)), dim=1)
        return (weights * neighbours).sum(1)


def _decoder(channels: int, widths: tuple[int, int, int]) -> list[nn.Sequential]:
    """Return three stages: maps at 2x, 4x and 8x the resolution, the last one the image."""
    first, second, third = widths
    to_image = nn.Sequential(_conv(third, 3, 1), nn.Tanh())
    return [
        nn.Sequential(_doubled(channels, first), Block(first, first, 3)),
        nn.Sequential(_doubled(first, second), Block(second, second, 3)),
        nn.Sequential(_doubled(second, third), to_image),
    ]


def _doubled(channels: int, out_channels: int) -> nn.Sequential:
    convolution = SeparableConv2d(channels, out_channels, 3, 1, 1)
    return nn.Sequential(nn.Upsample(scale_factor=2), convolution, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


def _conv(channels: int, out_channels: int, size: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out_channels, size, padding=size // 2, bias=False)
