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
BOTH = "emam-scam"  # the one after the other; in table and report beside the sum of the two
BACKENDS = (REFERENCE, "collapsed")
FUSED = "triton"  # runs on a GPU only
COMPILED, MAX_AUTOTUNED, GRAPH = "+compile", "+max-autotune", "+graph"  # what a contender's name ends in
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
    """One way to compute a layer. `promises_precision`: in half precision too it must be as exact as the reference.

    `compiled`: torch.compile's mode, or "". `graph`: in a CUDA graph.
    """

    name: str
    build: Callable[[Case], nn.Module]
    promises_precision: bool = True
    same_function: bool = True
    compiled: str = ""
    graph: bool = False


class Variants(NamedTuple):
    """What is measured beside the plain contenders: torch.compile of each backend, max-autotune, CUDA graphs of all."""

    compiled: bool = False
    max_autotuned: bool = False
    graphs: bool = False


class Plan(NamedTuple):
    """Inputs to measure, and how."""

    layers: tuple[str, ...]
    shapes: tuple[Shape, ...] | None  # None: the layer's own
    dtypes: tuple[str, ...] = ("float32",)
    layouts: tuple[str, ...] = ("contiguous",)
    how: Variants = Variants()


def _emam(backend: str) -> Callable[[Case], nn.Module]:
    return lambda case: EMAM(case.shape[1], case.groups or 1, backend=backend)


def _scam(backend: str, **options: Any) -> Callable[[Case], nn.Module]:
    return lambda case: SCAM(case.shape[1], REDUCTION, backend=backend, **options)


def _both(backend: str) -> Callable[[Case], nn.Module]:
    return lambda case: nn.Sequential(_emam(backend)(case), _scam(backend)(case))


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
    return [Contender(name, build(name)) for name in (*BACKENDS, FUSED)]


_CONTENDERS = {
    "emam": [*_backends(_emam), Contender("published", _published_ema, promises_precision=False)],
    "scam": _backends(_scam),
    "cbam": [
        *_backends(lambda backend: _scam(backend, mlp_bias=True, spatial_norm="batch")),
        Contender("timm", _timm_cbam, promises_precision=False),
        Contender("published", _published_cbam, promises_precision=False),
    ],
}
# In half precision each layer is judged alone: rounded between the two, SCAM's maxima are close to their runners-up.
_CONTENDERS[BOTH] = [c._replace(promises_precision=False) for c in _backends(_both)]
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
# The same places at the batch of a training on a GPU.
GPU_SHAPES: tuple[Shape, ...] = (
    (32, 728, 19, 19, 8),
    (32, 728, 38, 38, 8),
    (32, 256, 37, 37, 8),
    (32, 128, 74, 74, 8),
    (32, 64, 147, 147, 8),
    (32, 2048, 10, 10, 8),
    (32, 256, 56, 56, 8),
    (32, 1024, 14, 14, 32),
)
DETECTOR_SHAPES: dict[str, tuple[Shape, ...]] = {
    "panet-tiny": ((8, 3, 64, 64, 8),),
    "panet-paper": ((2, 3, 299, 299, 8),),
}


def is_detector(layer: str) -> bool:
    return layer.startswith("panet-")


def base_name(name: str) -> str:
    """A contender's name without what is done to it."""
    return name.split("+")[0]


def contenders(layer: str, device: str = "cpu", how: Variants = Variants()) -> list[Contender]:  # noqa: B008
    """The layer's contenders that can run on the device, the reference first, and the variants asked for."""
    found = [c for c in _CONTENDERS[layer] if device == "cuda" or c.name != FUSED]
    plain = [c for c in found if c.name in BACKENDS]
    if how.compiled:
        found += [c._replace(name=c.name + COMPILED, compiled="default") for c in plain]
    if how.max_autotuned:
        found.append(plain[0]._replace(name=plain[0].name + MAX_AUTOTUNED, compiled="max-autotune-no-cudagraphs"))
    if how.graphs:
        found += [c._replace(name=c.name + GRAPH, graph=True) for c in found]
    return found


def cases(
    layers: tuple[str, ...],
    shapes: Sequence[Shape] | None,
    dtype: str = "float32",
    layout: str = "contiguous",
    device: str = "cpu",
    batch: int | None = None,
) -> list[Case]:
    """Every case of the layers at `shapes` (B, C, H, W, G), or at the layers' own shapes; each once."""
    found: dict[Case, None] = {}
    for layer in layers:
        grouped = layer in ("emam", BOTH) or is_detector(layer)
        own = DETECTOR_SHAPES.get(layer, GPU_SHAPES if device == "cuda" else LAYER_SHAPES)
        for b, c, h, w, groups in shapes or own:
            case = Case(layer, (batch or b, c, h, w), groups if grouped else None, dtype, layout, device)
            found[case] = None
    return list(found)


def planned(plan: Plan, device: str, batch: int | None = None) -> list[Case]:
    """The cases of a plan."""
    return [
        case
        for dtype in plan.dtypes
        for layout in plan.layouts
        for case in cases(plan.layers, plan.shapes, dtype, layout, device, batch)
    ]


# What `--suite` takes, the most telling first: a run that ends early has these, and `--resume` goes on with the rest.
_GRAPHS, _COMPILED, _ALL = Variants(graphs=True), Variants(compiled=True, graphs=True), Variants(True, True, True)
_NARROW, _WIDE = GPU_SHAPES[0], GPU_SHAPES[6]  # of the lists' maps a small one of many channels, and a large one
_BATCHES: tuple[Shape, ...] = tuple((b, *shape[1:]) for b in (8, 128, 256) for shape in (_NARROW, _WIDE))
SUITES = {
    "gpu": (
        Plan(("emam", "cbam"), GPU_SHAPES, ("bfloat16",), how=_GRAPHS),
        Plan(("emam", "cbam"), (_NARROW,), ("bfloat16",), how=_COMPILED),
        Plan(("emam", "scam", BOTH), (_NARROW, _WIDE), ("bfloat16",), how=_GRAPHS),
        Plan(("emam", "cbam"), GPU_SHAPES, ("bfloat16",), ("channels_last",), _GRAPHS),
        Plan(("emam",), _BATCHES, ("bfloat16",), how=_GRAPHS),
        Plan(("emam", "cbam"), GPU_SHAPES, ("float32",), how=_GRAPHS),
        Plan(("emam", "cbam"), (_NARROW,), ("bfloat16",), how=_ALL),
        Plan(("emam", "cbam"), (_NARROW, _WIDE), ("float16",), ("contiguous", "channels_last"), _GRAPHS),
        Plan(("emam", "cbam"), GPU_SHAPES[1:], ("bfloat16",), how=_COMPILED),
        # From here on what completes the list.
        Plan(("scam",), GPU_SHAPES, ("bfloat16",), ("contiguous", "channels_last"), _GRAPHS),
        Plan(("cbam",), _BATCHES, ("bfloat16",), how=_GRAPHS),
        Plan((BOTH,), GPU_SHAPES, ("bfloat16",), ("contiguous", "channels_last"), _GRAPHS),
        Plan(("emam", "scam", "cbam"), GPU_SHAPES, ("float32", "float16"), tuple(LAYOUTS), _GRAPHS),
    ),
}
