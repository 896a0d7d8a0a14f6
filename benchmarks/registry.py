"""What is measured: the layers, their contenders, the shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from timm.layers.cbam import CbamModule
from torch import nn

from benchmarks.published import PublishedCBAM, PublishedEMA
from panet_layers import EMAM, SCAM
from panet_layers.models import PANet

REDUCTION = 16
REFERENCE, COPY = "reference", "copy"
BACKENDS = (REFERENCE, "collapsed")
COMPILED = "+compile"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
PASSES = ("forward", "training")

Shape = tuple[int, int, int, int, int]  # B, C, H, W, G


class Case(NamedTuple):
    """One input: contenders are compared on the same case only."""

    layer: str
    shape: tuple[int, int, int, int]
    groups: int | None  # None where the layer has no groups
    dtype: str = "float32"
    layout: str = "contiguous"
    device: str = "cpu"

    def __str__(self) -> str:
        groups = f" G={self.groups}" if self.groups else ""
        return f"{self.layer} {'x'.join(map(str, self.shape))}{groups} {self.dtype} {self.layout}"


class Contender(NamedTuple):
    """One way to compute a layer. `promises_precision`: in half precision too it must be as exact as the reference."""

    name: str
    build: Callable[[Case], nn.Module]
    promises_precision: bool = True
    same_function: bool = True
    compiled: bool = False


def _emam(backend: str) -> Callable[[Case], nn.Module]:
    return lambda case: EMAM(case.shape[1], case.groups or 1, backend=backend)


def _scam(backend: str, **options: Any) -> Callable[[Case], nn.Module]:
    return lambda case: SCAM(case.shape[1], REDUCTION, backend=backend, **options)


def _timm_cbam(case: Case) -> nn.Module:
    channels = case.shape[1]
    return CbamModule(channels, rd_channels=max(1, channels // REDUCTION), mlp_bias=True)


def _published_ema(case: Case) -> nn.Module:
    return PublishedEMA(case.shape[1], case.groups or 1)


def _published_cbam(case: Case) -> nn.Module:
    return PublishedCBAM(case.shape[1], REDUCTION)


def _panet(backend: str, **options: Any) -> Callable[[Case], nn.Module]:
    """The detector without its randomness (dropout, white noise), so that contenders can be compared."""

    def build(case: Case) -> nn.Module:
        variant = case.layer.removeprefix("panet-")
        model = PANet(variant=variant, groups=case.groups or 1, drop_rate=0.0, noise_std=0.0, **options)
        for module in model.modules():
            if isinstance(module, (EMAM, SCAM)):
                module.backend = backend
        return model

    return build


def _backends(build: Callable[[str], Callable[[Case], nn.Module]]) -> list[Contender]:
    return [Contender(name, build(name)) for name in BACKENDS]


_CONTENDERS = {
    "emam": [*_backends(_emam), Contender("published", _published_ema, promises_precision=False)],
    "scam": _backends(_scam),
    "cbam": [
        *_backends(lambda backend: _scam(backend, mlp_bias=True, spatial_norm="batch")),
        Contender("timm", _timm_cbam, promises_precision=False),
        Contender("published", _published_cbam, promises_precision=False),
    ],
}
for _name in ("panet-tiny", "panet-paper"):
    _CONTENDERS[_name] = [
        *_backends(_panet),
        Contender("no attention", _panet(REFERENCE, emam=None, scam=None), same_function=False),
    ]

LAYERS = tuple(_CONTENDERS)
# What `--layer` takes: SCAM by the paper's equations, and in the form that timm and the published code compute.
SELECTIONS = {
    "emam": ("emam",),
    "scam": ("scam", "cbam"),
    "detector": ("panet-tiny", "panet-paper"),
    "all": LAYERS,
}

# (B, C, H, W, G): an Xception's and a ResNet's stages, wide and narrow, then small ones.
LAYER_SHAPES: tuple[Shape, ...] = (
    (8, 728, 19, 19, 8),
    (8, 256, 37, 37, 8),
    (8, 128, 74, 74, 8),
    (4, 64, 147, 147, 8),
    (32, 2048, 10, 10, 8),
    (8, 256, 56, 56, 32),
    (2, 64, 32, 24, 8),
    (1, 64, 8, 8, 8),
    (2, 32, 4, 4, 8),
    (8, 96, 4, 4, 8),
    (32, 64, 16, 16, 8),
)
DETECTOR_SHAPES: dict[str, tuple[Shape, ...]] = {
    "panet-tiny": ((8, 3, 64, 64, 8),),
    "panet-paper": ((2, 3, 299, 299, 8),),
}


def is_detector(layer: str) -> bool:
    return layer.startswith("panet-")


def contenders(layer: str, compiled: bool = False) -> list[Contender]:
    """The layer's contenders, the reference first; with `compiled`, torch.compile of each backend too."""
    plain = _CONTENDERS[layer]
    if not compiled:
        return plain
    return plain + [c._replace(name=c.name + COMPILED, compiled=True) for c in plain if c.name in BACKENDS]


def cases(
    layers: tuple[str, ...],
    shapes: Sequence[Shape] | None,
    dtype: str = "float32",
    layout: str = "contiguous",
    device: str = "cpu",
) -> list[Case]:
    """Every case of the layers at `shapes` (B, C, H, W, G), or at the layers' own shapes; each once."""
    found: dict[Case, None] = {}
    for layer in layers:
        for b, c, h, w, groups in shapes or DETECTOR_SHAPES.get(layer, LAYER_SHAPES):
            grouped = layer == "emam" or is_detector(layer)
            case = Case(layer, (b, c, h, w), groups if grouped else None, dtype, layout, device)
            found[case] = None
    return list(found)
