"""The calls of the fused operators whose kernels are compiled ahead of time, on memory without values."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_with_more_channels = lambda shape: (shape[0], shape[1] + 8, *shape[2:])  # noqa: E731
LAYOUTS = {
    "contiguous": lambda shape, dtype: torch.empty(shape, dtype=dtype),
    "channels_last": lambda shape, dtype: torch.empty(shape, dtype=dtype).to(memory_format=torch.channels_last),
    "channels_last slice": lambda shape, dtype: LAYOUTS["channels_last"](_with_more_channels(shape), dtype)[:, :-8],
    "strided": lambda shape, dtype: torch.empty((*shape[:3], 2 * shape[3]), dtype=dtype)[..., ::2],
}
Size = tuple[tuple[int, int, int, int], int]  # (B, C, H, W), G


class Case(NamedTuple):
    """One call of an operator, forward and backward."""

    layer: str
    shape: tuple[int, int, int, int]
    groups: int
    dtype: str
    layout: str
    wide: bool = False  # offsets of 64 bits, as in planes and samples of more than 2^31 elements
    norm: str | None = "batch"  # of SCAM; "running": with the running statistics

    def __str__(self) -> str:
        size = f"{self.layer} {'x'.join(map(str, self.shape))} G={self.groups} {self.dtype} {self.layout}"
        return f"{size}{' 64-bit' * self.wide}{f' norm={self.norm}' * (self.layer == 'scam')}"


# A narrow and a wide location of PANet, for CI; then its others, timm's stages and odd maps.
WIDE, NARROW = ((32, 728, 19, 19), 8), ((32, 64, 147, 147), 8)
SHAPES: list[Size] = [
    WIDE, NARROW, ((32, 1024, 7, 7), 8), ((32, 728, 38, 38), 8), ((32, 256, 37, 37), 8), ((32, 128, 74, 74), 8),
    ((32, 2048, 10, 10), 8), ((32, 256, 56, 56), 8), ((32, 256, 56, 56), 32), ((32, 1024, 14, 14), 32),
    ((1, 6, 5, 7), 1), ((3, 8, 4, 6), 8), ((2, 12, 1, 9), 3), ((2, 12, 9, 1), 3), ((2, 12, 1, 1), 3),
]  # fmt: skip
REPRESENTATIVE = {  # EMAM's kernels see no other layout
    "emam": [(WIDE, "bfloat16", "channels_last"), (NARROW, "float32", "channels_last")],
    "scam": [(WIDE, "bfloat16", "contiguous"), (NARROW, "float32", "channels_last")],
}

# Maps whose rows, planes and pixels begin at multiples of one, two, four and eight elements.
BY_VECTOR = {1: (37, 37), 2: (37, 38), 4: (40, 36), 8: (40, 48)}
BY_CHANNELS = {1: 91, 2: 90, 4: 36, 8: 64}


OTHERS: list[Size] = [NARROW, ((2, 16, 14, 15), 4), ((2, 8, 3, 2), 8), ((2, 12, 9, 1), 3)]


def _emam_paths() -> list[Case]:
    """Every vector, one group in a block and several, all widths of blocks, maps that are dense and that are not."""
    cases = []
    for dtype in DTYPES:
        cases += [Case("emam", (1, 2 * k, 37, 19), 2, dtype, "channels_last") for k in BY_CHANNELS.values()]
        cases += [Case("emam", *size, dtype, "channels_last") for size in OTHERS]
        cases.append(Case("emam", (1, 182, 37, 19), 2, dtype, "channels_last slice"))
    return cases


def _scam_paths() -> list[Case]:
    """Every vector, offsets of 32 and 64 bits, each kind of normalisation."""
    norms = [None, "batch", "running"]
    cases = []
    for i, dtype in enumerate(DTYPES):
        sizes = [(vector, (1, 70, *size), "contiguous") for vector, size in BY_VECTOR.items()]
        sizes += [(vector, (1, channels, 19, 19), "channels_last") for vector, channels in BY_CHANNELS.items()]
        for vector, shape, layout in sizes:
            cases.append(Case("scam", shape, 1, dtype, layout, vector in (1, 4), norms[(i + vector) % 3]))
    return cases


PATHS = {"emam": _emam_paths(), "scam": _scam_paths()}


def cases(layer: str, which: str = "few") -> list[Case]:
    """The calls to compile: few; those of every way to launch ("paths"); every shape in every precision ("all")."""
    if which == "paths":
        return PATHS[layer]
    chosen = REPRESENTATIVE[layer]
    if which == "all":
        layouts = LAYOUTS if layer == "scam" else ("channels_last",)
        chosen = [(size, dtype, layout) for size in SHAPES for dtype in DTYPES for layout in layouts]
    return [Case(layer, *size, dtype, layout) for size, dtype, layout in chosen]


def call(case: Case) -> None:
    """The operator's forward and backward, as autograd calls them, on uninitialised memory."""
    x, grad = (LAYOUTS[case.layout](case.shape, DTYPES[case.dtype]) for _ in range(2))
    with _offsets(case.wide):
        (_emam if case.layer == "emam" else _scam)(case, x, grad)


@contextmanager
def _offsets(wide: bool) -> Iterator[None]:
    """Take every map of SCAM for one that needs 64-bit offsets; EMAM's kernels always have them."""
    from panet_layers.ops.scam.triton import tiling

    before = tiling.WIDE
    if wide:
        tiling.WIDE = 0
    try:
        yield
    finally:
        tiling.WIDE = before


def _emam(case: Case, x: Tensor, grad: Tensor) -> None:
    from panet_layers import EMAM

    ops = torch.ops.panet_layers
    settings = [p.detach() for p in EMAM(x.shape[1], case.groups, dtype=x.dtype).parameters()]
    _, *saved = ops.emam_fused_forward(x, *settings, case.groups, 1e-5)
    ops.emam_fused_backward(grad, x, *settings, *saved, case.groups)


def _scam(case: Case, x: Tensor, grad: Tensor) -> None:
    from panet_layers import SCAM

    ops, of_batch = torch.ops.panet_layers, case.norm == "batch"
    layer = SCAM(x.shape[1], spatial_norm="batch" if case.norm else None, dtype=x.dtype)
    fc1, fc2, conv, *norm = (p.detach() for p in layer.parameters())
    settings = [fc1, None, fc2, None, conv, *(norm or (None, None))]
    running = list(layer.spatial.bn.buffers())[:2] if case.norm == "running" else (None, None)
    _, *saved = ops.scam_fused_forward(x, *settings, *running, of_batch, 1e-5)
    ops.scam_fused_backward(grad, x, *settings, *saved, of_batch, 1e-5)
