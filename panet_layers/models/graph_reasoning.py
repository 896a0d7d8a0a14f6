"""Multi-scale graph reasoning (RECCE, CVPR 2022): encoder features are updated from the decoder's features.

Every pixel of the encoder's map is a vertex. Its neighbours are the decoder's features for the same part of the image:
a 2x2 patch of the map at twice the resolution, and a 4x4 patch of the map at four times the resolution.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..checks import check_devices
from ..parts import all_called, is_read

NAMES = ("score.weight", "project.weight")


class NeighbourAggregation(nn.Module):
    """A message for each vertex: the weighted sum of its ratio x ratio neighbours, gated by the vertex.

    embedded neighbour = project(ReLU(expand(neighbour)));
    weights = softmax over the neighbours of ReLU(score([embedded vertex, embedded neighbour]));
    message = (1 - sigmoid(gate(vertex))) * sum of weight * embedded neighbour.
    """

    def __init__(self, vertex_channels: int, neighbour_channels: int, hidden: int, ratio: int) -> None:
        super().__init__()
        self.ratio = ratio
        self.gate = nn.Conv2d(vertex_channels, hidden, 1, bias=False)
        self.expand = nn.Linear(neighbour_channels, hidden, bias=False)
        self.project = nn.Linear(hidden, hidden, bias=False)
        self.score = nn.Linear(2 * hidden, 1, bias=False)

    def forward(self, vertices: Tensor, embedded: Tensor, neighbours: Tensor) -> Tensor:
        """(B, C, h, w), embedded (B, D, h, w), neighbours (B, N, ratio h, ratio w) -> messages (B, D, h, w)."""
        ratio = self.ratio
        hidden = F.relu(self.expand(rearrange(neighbours, "b n h w -> b h w n")), inplace=True)
        hidden = rearrange(hidden, "b (h i) (w j) d -> b h i w j d", i=ratio, j=ratio)  # a view
        read = not all_called() and all(map(_is_read, (self.score, self.project)))
        message = self._by_weights(embedded, hidden) if read else self._by_calls(embedded, hidden)
        return (1 - torch.sigmoid(self.gate(vertices))) * rearrange(message, "b h w d -> b d h w")

    def _by_weights(self, embedded: Tensor, hidden: Tensor) -> Tensor:
        """Return the weighted sums (B, h, w, D) of the neighbours, given as hidden (B, h, ratio, w, ratio, D).

        `score` and `project` are linear. So the two halves of [vertex, neighbour] are scored separately, and `project`
        runs once per vertex, on the sum, not once per neighbour: the embedded neighbours, the largest tensor of the
        formulas above, are never stored.
        """
        check_devices(hidden, (self.score.weight, self.project.weight), NAMES, "NeighbourAggregation")
        score_vertex, score_neighbour = self.score.weight.chunk(2, dim=1)
        scores = F.linear(hidden, score_neighbour @ self.project.weight)  # (b, h, i, w, j, 1)
        scores = scores + F.linear(rearrange(embedded, "b d h w -> b h 1 w 1 d"), score_vertex)
        return self.project(self._weighted_sum(scores, hidden))

    def _by_calls(self, embedded: Tensor, hidden: Tensor) -> Tensor:
        """Return the same by calling `score` and `project` as modules: with hooks, quantised, as adapters."""
        neighbours = self.project(hidden)
        vertex = rearrange(embedded, "b d h w -> b h 1 w 1 d").expand_as(neighbours)
        return self._weighted_sum(self.score(torch.cat([vertex, neighbours], dim=-1)), neighbours)

    def _weighted_sum(self, scores: Tensor, vectors: Tensor) -> Tensor:
        """Return the sums (B, h, w, D) of vectors (B, h, ratio, w, ratio, D), given the scores (..., 1) of each.

        The rows of neighbours are summed last: so the vectors keep their order in memory.
        """
        flat = rearrange(F.relu(scores), "b h i w j 1 -> b h w (i j)")
        weights = rearrange(torch.softmax(flat, dim=-1), "b h w (i j) -> b h i w 1 j", i=self.ratio)
        return (weights @ vectors).sum(2).squeeze(-2)


def _is_read(linear: nn.Module) -> bool:
    """Return whether a layer is as it was made, so that its weight says what it computes."""
    return is_read(linear, nn.Linear) and linear.bias is None


class GraphReasoning(nn.Module):
    """Encoder features (B, C, h, w), decoder features at 2x and 4x their resolution -> an update (B, C, h, w)."""

    def __init__(
        self, channels: int, channels_x2: int, channels_x4: int, hidden: int = 256, drop_rate: float = 0.2
    ) -> None:
        super().__init__()
        self.embed_vertices = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, hidden, 1, bias=False),
        )
        self.aggregate_x2 = NeighbourAggregation(channels, channels_x2, hidden, ratio=2)
        self.aggregate_x4 = NeighbourAggregation(channels, channels_x4, hidden, ratio=4)
        self.project = nn.Sequential(
            nn.Conv2d(3 * hidden, channels, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.Dropout(drop_rate),
        )

    def forward(self, vertices: Tensor, features_x2: Tensor, features_x4: Tensor) -> Tensor:
        embedded = self.embed_vertices(vertices)
        message_x2 = self.aggregate_x2(vertices, embedded, features_x2)
        message_x4 = self.aggregate_x4(vertices, embedded, features_x4)
        return self.project(torch.sigmoid(torch.cat([message_x2, message_x4, embedded], dim=1)))
