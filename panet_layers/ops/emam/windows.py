"""The mean of a zero-padded 3x3 convolution without the convolution: it is linear in nine window sums for each channel.

Tap (ky, kx) reads the map without one border row (ky != 1) and without one border column (kx != 1). The sum of what it
reads, S in docs/derivation.md, is total - excluded row - excluded column + their corner: linear in the row and column
means, which are known, and in the four corner pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Windows:
    """The linear map from means (N, K, H + W) and x (N, K, H, W) to window sums (N, K, 9), and its adjoint."""

    def __init__(self, height: int, width: int, like: Tensor) -> None:
        from_rows = [[float(width)] * 9 for _ in range(height)]
        from_columns = [[0.0] * 9 for _ in range(width)]
        from_corners = [[0.0] * 9 for _ in range(4)]
        for tap in range(9):
            ky, kx = divmod(tap, 3)
            row, column = height - 1 if ky == 0 else 0, width - 1 if kx == 0 else 0
            if ky != 1:
                from_rows[row][tap] = 0.0
            if kx != 1:
                from_columns[column][tap] = -float(height)
            if ky != 1 and kx != 1:
                from_corners[2 * (ky == 0) + (kx == 0)][tap] = 1.0
        self.from_means = like.new_tensor(from_rows + from_columns)
        self.from_corners = like.new_tensor(from_corners)
        pixels = [0, width - 1, (height - 1) * width, height * width - 1]
        self.corners = torch.tensor(pixels, device=like.device)
        self.height, self.width = height, width

    def sums(self, means: Tensor, x: Tensor) -> Tensor:
        """Return the window sums S (N, K, 9)."""
        corners = x.flatten(2).index_select(2, self.corners)
        sums = means.flatten(0, 1) @ self.from_means
        return sums.addmm_(corners.flatten(0, 1), self.from_corners).view(*corners.shape[:2], 9)

    def add_gradient(self, dx: Tensor, dmeans: Tensor, dsums: Tensor) -> None:
        """Add to dx (N, K, H, W), in place, the gradient that comes through the means and through the window sums."""
        dmeans = dmeans + dsums @ self.from_means.mT
        dx += (dmeans[..., : self.height] / self.width)[..., None]
        dx += (dmeans[..., self.height :] / self.height)[:, :, None]
        dx.flatten(2).index_add_(2, self.corners, dsums @ self.from_corners.mT)
