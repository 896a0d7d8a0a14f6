"""The mean of a zero-padded 3x3 convolution without the convolution: it is linear in nine numbers a channel.

Tap (ky, kx) sees the map without one border row (ky != 1), without one border column (kx != 1), or whole. Its sum is
total - excluded row - excluded column + their corner, so the nine window sums are a fixed matrix times nine border
sums (total, first and last row, first and last column, four corners), and that matrix folds into the weight.
"""

from __future__ import annotations

import torch
from torch import Tensor

TOTAL, FIRST_ROW, LAST_ROW, FIRST_COLUMN, LAST_COLUMN, CORNERS = 0, 1, 2, 3, 4, 5


def _basis() -> list[list[int]]:
    """Window sum of a tap = sum over j of border sum j times _basis()[j][tap]."""
    basis = [[0] * 9 for _ in range(9)]
    for tap in range(9):
        ky, kx = divmod(tap, 3)
        basis[TOTAL][tap] = 1
        if ky != 1:
            basis[LAST_ROW if ky == 0 else FIRST_ROW][tap] = -1
        if kx != 1:
            basis[LAST_COLUMN if kx == 0 else FIRST_COLUMN][tap] = -1
        if ky != 1 and kx != 1:
            basis[CORNERS + 2 * (ky == 0) + (kx == 0)][tap] = 1
    return basis


_BASIS = _basis()


def fold_windows(conv3x3_weight: Tensor) -> Tensor:
    """(O, K, 3, 3) -> (O, K * 9): weights that act on border sums instead of window sums."""
    basis = conv3x3_weight.new_tensor(_BASIS)
    return (conv3x3_weight.flatten(2) @ basis.mT).flatten(1)


def unfold_windows(folded: Tensor, channels: int) -> Tensor:
    """The adjoint of `fold_windows`: (O, K * 9) -> (O, K, 3, 3)."""
    basis = folded.new_tensor(_BASIS)
    return (folded.unflatten(1, (channels, 9)) @ basis).unflatten(2, (3, 3))


def border_sums(means: Tensor, x: Tensor) -> Tensor:
    """Row and column means (N, K, H + W) and x (N, K, H, W) -> (N, K, 9) border sums."""
    height, width = x.shape[2:]
    rows, columns = means[..., :height], means[..., height:]
    total = rows.sum(dim=2, keepdim=True) * width
    edge_rows = [rows[..., :1] * width, rows[..., -1:] * width]
    edge_columns = [columns[..., :1] * height, columns[..., -1:] * height]
    corners = [x[:, :, h, w, None] for h in (0, -1) for w in (0, -1)]
    return torch.cat([total, *edge_rows, *edge_columns, *corners], dim=2)


def add_border_gradient(dx: Tensor, dmeans: Tensor, dborder: Tensor) -> None:
    """Add to dx (N, K, H, W), in place, what reaches it through the means and through the border sums."""
    height, width = dx.shape[2:]
    rows, columns = dmeans[..., :height] / width, dmeans[..., height:] / height
    rows += dborder[..., TOTAL, None]
    rows[..., 0] += dborder[..., FIRST_ROW]
    rows[..., -1] += dborder[..., LAST_ROW]
    columns[..., 0] += dborder[..., FIRST_COLUMN]
    columns[..., -1] += dborder[..., LAST_COLUMN]
    dx += rows[..., None]
    dx += columns[:, :, None]
    for corner, (h, w) in enumerate(((0, 0), (0, -1), (-1, 0), (-1, -1))):
        dx[:, :, h, w] += dborder[..., CORNERS + corner]
