"""The one table of shapes and tolerances of the layers' tests, and how a case is built, run and compared."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from panet_layers import EMAM, SCAM
from panet_layers.ops import chunks
from panet_layers.ops.native import library

EXACT = 1e-10  # float64 against float64, relative to the largest element of the tensor (or to 1, if that is larger)
BACKENDS = ("reference", "collapsed", *(["native"] if library.why_not() is None else []))
HAND_WRITTEN = BACKENDS[1:]  # with derivatives of their own
LOW_PRECISION = (torch.float32, torch.bfloat16, torch.float16)

SMALL_CHUNKS = (1, 3000, 20_000)  # bytes: one instance in a chunk; a few groups; a few samples
DEFAULT_CHUNKS = chunks.CHUNK_BYTES


class EmamCase(NamedTuple):
    batch: int
    channels: int
    groups: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.batch}x{self.channels}x{self.height}x{self.width},groups={self.groups}"

    def layer(self, seed: int = 0, **options) -> EMAM:
        return randomised(EMAM(self.channels, self.groups, **{"dtype": torch.float64, **options}), seed)


class ScamCase(NamedTuple):
    batch: int
    channels: int
    reduction: int
    height: int
    width: int
    kernel_size: int = 7
    mlp_bias: bool = False
    norm: str | None = None
    training: bool = True

    def __str__(self) -> str:
        norm = f"{self.norm}-{'train' if self.training else 'eval'}" if self.norm else "plain"
        bias = ",bias" if self.mlp_bias else ""
        shape = f"{self.batch}x{self.channels}x{self.height}x{self.width}"
        return f"{shape},reduction={self.reduction},kernel={self.kernel_size}{bias},{norm}"

    def layer(self, seed: int = 0, **options) -> SCAM:
        options = {"dtype": torch.float64, **options}
        fixed = {"kernel_size": self.kernel_size, "mlp_bias": self.mlp_bias, "spatial_norm": self.norm}
        return randomised(SCAM(self.channels, self.reduction, **fixed, **options), seed).train(self.training)


Case = EmamCase | ScamCase

EMAM_CASES = [
    EmamCase(2, 16, 8, 7, 5),
    EmamCase(5, 16, 4, 6, 6),
    EmamCase(2, 24, 4, 33, 40),
    EmamCase(1, 6, 1, 5, 7),  # one group
    EmamCase(3, 8, 8, 4, 6),  # one channel in a group
    EmamCase(2, 12, 3, 1, 9),
    EmamCase(2, 12, 3, 9, 1),
    EmamCase(2, 12, 3, 2, 2),
    EmamCase(2, 12, 3, 1, 1),
    EmamCase(1, 4, 1, 1, 1),  # one instance of one pixel
    EmamCase(0, 16, 4, 5, 5),
    EmamCase(1, 728, 8, 3, 5),
]

_SCAM_SHAPES = [
    ScamCase(2, 16, 4, 7, 5),
    ScamCase(5, 32, 16, 6, 6, mlp_bias=True),
    ScamCase(2, 24, 8, 33, 40),
    ScamCase(2, 8, 16, 4, 6, kernel_size=3),  # a reduction larger than the channels
    ScamCase(3, 1, 16, 5, 4, kernel_size=1),  # one channel
    ScamCase(2, 12, 4, 1, 9),
    ScamCase(2, 12, 4, 9, 1, mlp_bias=True),
    ScamCase(2, 12, 4, 1, 1),
    ScamCase(0, 16, 4, 5, 5),
    ScamCase(1, 728, 16, 3, 5),
]

SCAM_CASES = [
    shape._replace(norm=norm, training=training)
    for shape in _SCAM_SHAPES
    for norm, training in ((None, True), ("batch", True), ("batch", False))
]

CASES: list[Case] = [*EMAM_CASES, *SCAM_CASES]

# A small case of each kind of layer, for tests that are not about shapes.
SMALL: list[Case] = [
    EmamCase(2, 8, 4, 5, 4),
    ScamCase(2, 8, 4, 5, 4, kernel_size=3),
    ScamCase(2, 8, 4, 5, 4, kernel_size=3, mlp_bias=True, norm="batch"),
    ScamCase(2, 8, 4, 5, 4, kernel_size=3, mlp_bias=True, norm="batch", training=False),
]


def interpreted(cases: list[Case], on_gpus: set[int]) -> list:
    """Parameters of a test: the interpreter runs every case, a GPU those with these numbers."""
    return [case if i in on_gpus else pytest.param(case, marks=pytest.mark.interpreted) for i, case in enumerate(cases)]


def randomised(layer: nn.Module, seed: int) -> nn.Module:
    """The layer with every parameter and running statistic drawn: initial values of 0 and 1 hide errors."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in (*layer.named_parameters(), *layer.named_buffers()):
            if tensor.is_floating_point():
                drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
                fan_in = tensor[0].numel() if tensor.dim() > 1 else 1
                drawn = drawn.abs() + 0.5 if "running_var" in name else drawn / fan_in**0.5
                tensor.copy_(drawn)
    return layer


def tensors(case: Case, seed: int = 1, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """An input and a gradient of the output."""
    generator = torch.Generator().manual_seed(seed)
    shape = (2, case.batch, case.channels, case.height, case.width)
    x, grad = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    return x.clone(), grad.clone()


def with_backend(layer: nn.Module, backend: str) -> nn.Module:
    """A copy of the layer that names its backend."""
    layer = copy.deepcopy(layer)
    layer.backend = backend
    return layer


def run(layer: nn.Module, x: Tensor, grad: Tensor) -> dict[str, Tensor]:
    """The output, every gradient, and the buffers afterwards."""
    return outcome_of(layer, x.detach().requires_grad_(), grad)


def outcome_of(layer: nn.Module, x: Tensor, grad: Tensor) -> dict[str, Tensor]:
    """As `run`, on this x itself, which requires a gradient."""
    out = layer(x)
    parameters = dict(layer.named_parameters())
    grads = torch.autograd.grad(out, [x, *parameters.values()], grad)
    outcome = {"output": out.detach()}
    outcome |= {f"grad {name}": g for name, g in zip(["x", *parameters], grads)}
    return outcome | {f"after {name}": buffer.clone() for name, buffer in layer.named_buffers()}


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = EXACT) -> None:
    """Every tensor equal to `tolerance` of the expected one's largest element, or of 1, if that is larger."""
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert actual[name].shape == value.shape and actual[name].dtype == value.dtype, name
        if value.numel():
            distance = (actual[name] - value).abs().max().item()
            assert distance <= tolerance * max(1.0, value.abs().max().item()), f"{name} is off by {distance:.3g}"


@contextmanager
def chunks_of(size: int) -> Iterator[None]:
    """Walk through the input in chunks of about `size` bytes."""
    before, chunks.CHUNK_BYTES = chunks.CHUNK_BYTES, size
    try:
        yield
    finally:
        chunks.CHUNK_BYTES = before


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Fill the memory that torch.empty and similar functions return with NaN: an element that is not written shows."""
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        assert torch.empty(1).isnan().all()
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.utils.deterministic.fill_uninitialized_memory = before[1]


def assert_one_compilation_serves(
    sizes: list[tuple[int, int, int]],
    case: Case,
    backend: str,
    device: torch.device | str = "cpu",
    memory_format: torch.memory_format = torch.contiguous_format,
    mark: bool = False,
) -> None:
    """Every (batch, height, width) has eager's outcome and needs no new compilation.

    torch learns which sizes change from `dynamic=True` or, with `mark`, from the marked dimensions.
    """
    eager, layer = (with_backend(case.layer(), backend).to(device) for _ in range(2))
    layer.compile(fullgraph=True, backend="aot_eager", dynamic=None if mark else True)
    for i, (batch, height, width) in enumerate(sizes):
        maps = tensors(case._replace(batch=batch, height=height, width=width))
        x, grad = (t.to(device, memory_format=memory_format) for t in maps)
        for dim in (0, 2, 3) if mark else ():
            torch._dynamo.mark_dynamic(x, dim)
        with torch._dynamo.config.patch(error_on_recompile=i > 0):
            compiled = outcome_of(layer, x.requires_grad_(), grad)
        assert_same(compiled, run(eager, x, grad))
