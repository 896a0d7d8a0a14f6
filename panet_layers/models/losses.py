"""PANet's training loss (section III-D, Eq. 9-12): classification, reconstruction of real images, metric learning."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import check_range, check_tensor
from .detector import PANetOutput


class PANetLosses(NamedTuple):
    """Scalars in float32 (float64 for a float64 model); total = classification + l1 * reconstruction + l2 * metric."""

    total: Tensor
    classification: Tensor
    reconstruction: Tensor
    metric: Tensor


class PANetLoss(nn.Module):
    """(output, images (B, 3, H, W), labels (B,)) -> `PANetLosses` (Eq. 12); label 0 is real, all others are fake.

    classification: cross-entropy, in its binary form for one logit.
    reconstruction: absolute error, mean over the pixels of the real images (Eq. 9).
    metric: mean distance of two real images minus that of a real and a fake image, with (1 - cos) / 2 as the distance,
        summed over the embeddings (Eq. 10-11). A real image forms no pair with itself.
    A mean of nothing (no real image, no pair, no decoder) is 0. Under autocast the sums stay in float32.

    Args:
        lambda_reconstruction, lambda_metric: weights l1 and l2. The paper states none; the defaults are RECCE's.
        flood: replace the classification loss L by |L - flood| + flood (RECCE: 0.04); None keeps L, as the paper does.
        clip_metric: max(0, 1 + L_m) for each embedding, as in RECCE.
    Raises ValueError where shapes or dtypes do not fit, TypeError for what is no output or tensor. Does not check the
    labels' values: a GPU would have to wait.
    """

    # docs/choices.md: losses

    def __init__(
        self,
        lambda_reconstruction: float = 0.1,
        lambda_metric: float = 0.1,
        *,
        flood: float | None = None,
        clip_metric: bool = False,
    ) -> None:
        super().__init__()
        check_range("lambda_reconstruction", lambda_reconstruction, 0)
        check_range("lambda_metric", lambda_metric, 0)
        if flood is not None:
            check_range("flood", flood, 0)
        self.lambda_reconstruction = lambda_reconstruction
        self.lambda_metric = lambda_metric
        self.flood = flood
        self.clip_metric = clip_metric

    def forward(self, output: PANetOutput, images: Tensor, labels: Tensor) -> PANetLosses:
        _check(output, images, labels)
        real = labels == 0
        classification = self.classification(output.logits, labels)
        nothing = classification.new_zeros(())
        reconstruction = nothing
        if output.reconstruction is not None:
            reconstruction = reconstruction_loss(output.reconstruction, images, real)
        terms = [metric_loss(embedding, real) for embedding in output.embeddings]
        if self.clip_metric:
            terms = [F.relu(1 + term) for term in terms]
        metric = sum(terms, nothing)
        total = classification + self.lambda_reconstruction * reconstruction + self.lambda_metric * metric
        return PANetLosses(total, classification, reconstruction, metric)

    def classification(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the classification loss of logits (B, num_classes) and labels (B,), flooded where asked."""
        logits = _precise(logits)
        if logits.shape[1] == 1:
            loss = F.binary_cross_entropy_with_logits(logits[:, 0], (labels != 0).to(logits.dtype))
        else:
            loss = F.cross_entropy(logits, labels.long())
        return loss if self.flood is None else (loss - self.flood).abs() + self.flood

    def extra_repr(self) -> str:
        return (
            f"lambda_reconstruction={self.lambda_reconstruction}, lambda_metric={self.lambda_metric}, "
            f"flood={self.flood}, clip_metric={self.clip_metric}"
        )


def reconstruction_loss(reconstruction: Tensor, images: Tensor, real: Tensor) -> Tensor:
    """Return Eq. 9: the mean absolute error per pixel and channel over the images that the mask `real` (B,) selects."""
    error = (_precise(reconstruction) - _precise(images)).abs().mean((1, 2, 3))
    return _masked_mean(error, real)


def metric_loss(embedding: Tensor, real: Tensor) -> Tensor:
    """Return Eq. 10 for one embedding (B, C) of the images, of which the mask `real` (B,) selects the real ones."""
    unit = F.normalize(_precise(embedding), dim=1)
    with torch.autocast(unit.device.type, enabled=False):
        distance = (1 - unit @ unit.T) / 2  # Eq. 11
    others = ~torch.eye(len(real), dtype=torch.bool, device=real.device)
    real_real = real[:, None] & real & others
    real_fake = real[:, None] & ~real
    return _masked_mean(distance, real_real) - _masked_mean(distance, real_fake)


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of values[mask], 0 for an empty mask. (Indexing by a mask makes the CPU wait for the GPU.)"""
    return torch.where(mask, values, 0).sum() / mask.sum().clamp(min=1)


def _precise(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _check(output: PANetOutput, images: Tensor, labels: Tensor) -> None:
    if not hasattr(output, "logits"):
        raise TypeError(f"output must be a PANetOutput, what a detector returns, got a {type(output).__name__}")
    check_tensor("images", images, "(B, 3, H, W)")
    check_tensor("labels", labels, "(B,)")
    batch = output.logits.shape[0]
    if labels.shape != (batch,):
        raise ValueError(f"labels must be ({batch},), one per image, got {tuple(labels.shape)}")
    if labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"labels must be integers (0 real, 1 fake) or bool, got {labels.dtype}")
    wanted = images.shape if output.reconstruction is None else output.reconstruction.shape
    if images.shape != wanted or images.shape[0] != batch:
        raise ValueError(f"images must be those of the output, {(batch, *wanted[1:])}, got {tuple(images.shape)}")
