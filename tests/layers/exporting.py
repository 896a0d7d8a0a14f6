"""torch.export as the tests use it: for any batch and image size."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

ANY_SIZE = dict.fromkeys((0, 2, 3), Dim.AUTO)


def exported(model: nn.Module, x: Tensor, dynamic: dict[int, Any] = ANY_SIZE, **options: Any) -> ExportedProgram:
    """Return the model's program for inputs like x (B, C, H, W), whose dimensions `dynamic` may change."""
    return torch.export.export(model, (x,), dynamic_shapes=(dynamic,), **options)
