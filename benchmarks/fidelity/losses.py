"""PANetLoss against its formulas worked out by hand, on three images."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from benchmarks.fidelity.lines import Line
from panet_layers.models import PANetLoss, PANetOutput

BOUND = 1e-12
BY_HAND = "by hand"


def lines() -> Iterator[Line]:
    """Two real images and a fake one: logits 0; mean absolute errors 0.5, 0.25, 5; embeddings (1, 0), (0, 1), (-1, 0).

    The distance of the real ones is (1 - 0) / 2; of a real one to the fake one 1 and 0.5.
    """
    images = torch.zeros(3, 3, 4, 4, dtype=torch.float64)
    errors = torch.tensor([0.5, -0.25, 5.0], dtype=torch.float64)[:, None, None, None]
    embedding = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    output = PANetOutput(torch.zeros(3, 1, dtype=torch.float64), images + errors, (embedding,) * 3)
    labels = torch.tensor([0, 0, 1])
    plain = PANetLoss()(output, images, labels)
    yield _line("classification: ln 2", plain.classification, math.log(2))
    yield _line("reconstruction (Eq. 9): (0.5 + 0.25) / 2", plain.reconstruction, 0.375)
    yield _line("metric (Eq. 10-11): 3 (0.5 - 0.75)", plain.metric, -0.75)
    yield _line("total (Eq. 12): ln 2 + 0.1 * 0.375 - 0.1 * 0.75", plain.total, math.log(2) - 0.0375)
    recces = PANetLoss(flood=0.04, clip_metric=True)
    certain = output._replace(logits=torch.tensor([[-10.0], [-10.0], [10.0]], dtype=torch.float64))
    found = recces(certain, images, labels)
    flooded = 0.08 - math.log1p(math.exp(-10))
    yield _line("RECCE's flooding at a loss of ln(1 + 1/e^10): 0.08 minus it", found.classification, flooded)
    yield _line("RECCE's metric: 3 max(0, 1 - 0.25)", found.metric, 2.25)


def _line(of: str, found: torch.Tensor, expected: float) -> Line:
    return Line("PANetLoss", BY_HAND, of, abs(found.item() - expected) / abs(expected), BOUND)
