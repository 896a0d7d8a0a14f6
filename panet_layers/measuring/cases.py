"""One input of one layer, and the layer that is measured on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .. import EMAM, SCAM
from .draws import SEED, clear_maxima, draw_parameters, normal

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
PASSES = ("forward", "training")
BOTH = "emam-scam"  # EMAM, then SCAM
REDUCTION = 16

Shape = tuple[int, int, int, int, int]  # B, C, H, W, G


class Case(NamedTuple):
    """One input of one layer; only contenders of the same case are compared."""

    layer: str
    shape: tuple[int, int, int, int]
    groups: int | None  # None where the layer has no groups
    dtype: str = "float32"
    layout: str = "contiguous"
    device: str = "cpu"

    def __str__(self) -> str:
        groups = f" G={self.groups}" if self.groups else ""
        return f"{self.layer} {'x'.join(map(str, self.shape))}{groups} {self.dtype} {self.layout}"


def _emam(backend: str, case: Case) -> nn.Module:
    return EMAM(case.shape[1], case.groups or 1, backend=backend)


def _scam(backend: str, case: Case) -> nn.Module:
    return SCAM(case.shape[1], REDUCTION, backend=backend)


def _cbam(backend: str, case: Case) -> nn.Module:
    return SCAM(case.shape[1], REDUCTION, backend=backend, mlp_bias=True, spatial_norm="batch")


# "scam" is the paper's SCAM, "cbam" the CBAM that timm and the published code compute.
BUILDERS: dict[str, Callable[[str, Case], nn.Module]] = {"emam": _emam, "scam": _scam, "cbam": _cbam}


def drawn(build: Callable[[], nn.Module], source: Callable[[], nn.Module], case: Case, dtype: torch.dtype) -> nn.Module:
    """Return what `build` builds, on the case's device, with the parameters drawn for what `source` builds."""
    torch.manual_seed(SEED)
    module = build()
    torch.manual_seed(SEED)
    draw_parameters(module, source(), DTYPES[case.dtype])
    return module.to(device=case.device, dtype=dtype)


def draw_input(case: Case, dtype: torch.dtype | None = None, seed: int = SEED) -> Tensor:
    """Return the case's input, in the case's layout: numbers of the case's dtype, in `dtype`."""
    values = clear_maxima if case.layer in ("scam", "cbam", BOTH) else normal
    return _placed(case, values(case.shape, seed), dtype)


def draw_gradient(case: Case, dtype: torch.dtype | None = None, seed: int = SEED) -> Tensor:
    """Return the gradient of the output that belongs to `draw_input` of the same seed."""
    return _placed(case, normal(case.shape, seed + 1), dtype)


def _placed(case: Case, values: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Return the values rounded to the case's dtype, on its device and in its layout."""
    rounded = values.to(DTYPES[case.dtype])
    return rounded.to(case.device, dtype or rounded.dtype, memory_format=LAYOUTS[case.layout], copy=True)
