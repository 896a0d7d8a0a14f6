"""The inputs that are measured: shapes, the cases made of them, and the suites for a GPU."""

from __future__ import annotations

import math
from itertools import product
from typing import NamedTuple

from panet_layers.measuring.cases import BOTH, LAYOUTS, PASSES, Case, Shape

LAYERS = ("emam", "scam", "cbam", BOTH, "panet-tiny", "panet-paper")

# What `--layer` takes. "scam" is the paper's SCAM and the CBAM that timm and the published code compute.
SELECTIONS = {
    "scam": ("scam", "cbam"),
    "detector": ("panet-tiny", "panet-paper"),
    "all": LAYERS,
}

# The stages of an Xception and a ResNet, wide and narrow, then small maps.
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
    (1, 256, 20, 20, 8),
)
# Square maps of few and of many channels, from 2^12 to 2^27 elements.
GROWTH_SHAPES: tuple[Shape, ...] = tuple(
    (1, channels, side, side, 8)
    for side in (4, 8, 16, 32, 64, 128, 256, 512, 1024)
    for channels in (64, 512)
    if 2**12 <= channels * side**2 <= 2**27
)
MOST_IN_TRAINING = 2**24  # elements; the float64 answer of a larger training step takes more memory than many have
# The same stages at the batch size of a training on a GPU.
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
    "panet-paper": ((4, 3, 299, 299, 8), (1, 3, 299, 299, 8)),
}


class Variants(NamedTuple):
    """What is measured beside the plain contenders: torch.compile of each backend, max-autotune, CUDA graphs of all."""

    compiled: bool = False
    max_autotuned: bool = False
    graphs: bool = False


class Grid(NamedTuple):
    """Every combination of layers, shapes, dtypes and layouts, and the variants to measure on each."""

    layers: tuple[str, ...]
    shapes: tuple[Shape, ...] | None  # None: the layer's own
    dtypes: tuple[str, ...] = ("float32",)
    layouts: tuple[str, ...] = ("contiguous",)
    variants: Variants = Variants()
    passes: tuple[str, ...] = PASSES

    def cases(self, device: str, batch: int | None = None) -> list[Case]:
        """Return every case of the grid once; `batch` replaces the batch size of every shape."""
        found: dict[Case, None] = {}
        for dtype, layout, layer in product(self.dtypes, self.layouts, self.layers):
            has_groups = layer in ("emam", BOTH) or is_detector(layer)
            own = DETECTOR_SHAPES.get(layer, GPU_SHAPES if device == "cuda" else LAYER_SHAPES)
            for b, c, h, w, groups in self.shapes or own:
                found[Case(layer, (batch or b, c, h, w), groups if has_groups else None, dtype, layout, device)] = None
        return list(found)


def is_detector(layer: str) -> bool:
    """Return whether the "layer" is the whole network PANet."""
    return layer.startswith("panet-")


# What `--suite` takes, the most important first: a run that ends early has measured these, `--resume` adds the rest.
_GRAPHS, _COMPILED, _ALL = Variants(graphs=True), Variants(compiled=True, graphs=True), Variants(True, True, True)
_NARROW, _WIDE = GPU_SHAPES[0], GPU_SHAPES[6]  # a small map of many channels, and a large one of few
_BATCHES: tuple[Shape, ...] = tuple((b, *shape[1:]) for b in (8, 128, 256) for shape in (_NARROW, _WIDE))
SUITES = {
    "growth": (
        Grid(("emam", "cbam"), tuple(s for s in GROWTH_SHAPES if math.prod(s[:4]) <= MOST_IN_TRAINING)),
        Grid(
            ("emam", "cbam"),
            tuple(s for s in GROWTH_SHAPES if math.prod(s[:4]) > MOST_IN_TRAINING),
            passes=("forward",),
        ),
    ),
    "gpu": (
        Grid(("emam", "cbam"), GPU_SHAPES, ("bfloat16",), variants=_GRAPHS),
        Grid(("emam", "cbam"), (_NARROW,), ("bfloat16",), variants=_COMPILED),
        Grid(("emam", "scam", BOTH), (_NARROW, _WIDE), ("bfloat16",), variants=_GRAPHS),
        Grid(("emam", "cbam"), GPU_SHAPES, ("bfloat16",), ("channels_last",), _GRAPHS),
        Grid(("emam",), _BATCHES, ("bfloat16",), variants=_GRAPHS),
        Grid(("emam", "cbam"), GPU_SHAPES, ("float32",), variants=_GRAPHS),
        Grid(("emam", "cbam"), (_NARROW,), ("bfloat16",), variants=_ALL),
        Grid(("emam", "cbam"), (_NARROW, _WIDE), ("float16",), ("contiguous", "channels_last"), _GRAPHS),
        Grid(("emam", "cbam"), GPU_SHAPES[1:], ("bfloat16",), variants=_COMPILED),
        # From here on, what completes the list.
        Grid(("scam",), GPU_SHAPES, ("bfloat16",), ("contiguous", "channels_last"), _GRAPHS),
        Grid(("cbam",), _BATCHES, ("bfloat16",), variants=_GRAPHS),
        Grid((BOTH,), GPU_SHAPES, ("bfloat16",), ("contiguous", "channels_last"), _GRAPHS),
        Grid(("emam", "scam", "cbam"), GPU_SHAPES, ("float32", "float16"), tuple(LAYOUTS), _GRAPHS),
    ),
}
