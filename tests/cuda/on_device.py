"""What the GPU tests share: cases on a device, compared with the float64 reference; steps captured in a graph."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from panet_layers import EMAM, SCAM
from panet_layers.measuring.draws import clear_maxima
from tests.layers.cases import Case, EmamCase, ScamCase, run, tensors, with_backend
from tests.layers.precision import Budget

BACKEND = "triton"
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}

# Small enough for the interpreter: an odd map for each kind of layer.
SMALL_EMAM = EmamCase(2, 12, 4, 7, 5)
SMALL_SCAM = ScamCase(2, 12, 4, 7, 5, mlp_bias=True, norm="batch")
LARGER_EMAM = EmamCase(1, 34, 2, 33, 35)  # several blocks of columns and chunks of rows
SMALL = [SMALL_EMAM, SMALL_SCAM, SMALL_SCAM._replace(mlp_bias=False, norm=None)]


def placed(
    case: Case, device: torch.device, dtype: torch.dtype = torch.float32, layout: str = "contiguous", seed: int = 0
) -> tuple[nn.Module, Tensor, Tensor]:
    """The fused layer, an input and a gradient. SCAM's input has clear maxima, which rounding does not change."""
    layer = with_backend(case.layer(seed, dtype=dtype), BACKEND).to(device)
    x, grad = tensors(case, seed + 1, dtype)
    if isinstance(case, ScamCase) and x.numel():
        x = clear_maxima(tuple(x.shape), seed)
    return layer, *(t.to(device, dtype, memory_format=LAYOUTS[layout], copy=True) for t in (x, grad))


def by_formulas(layer: nn.Module) -> nn.Module:
    """A copy that runs the reference."""
    layer = copy.deepcopy(layer)
    for module in layer.modules():
        if isinstance(module, (EMAM, SCAM)):
            module.backend = "reference"
    return layer


def exactly(layer: nn.Module, x: Tensor, grad: Tensor) -> dict[str, Tensor]:
    """The float64 answer to the same (rounded) numbers."""
    return run(by_formulas(layer).double(), x.double(), grad.double())


def check_budget(draw: Callable[[int], tuple[nn.Module, Tensor, Tensor]], draws: int) -> None:
    """`draw(seed)` within the budget, measured by the reference in the same dtype."""
    budget = Budget()
    for seed in range(draws):
        layer, x, grad = draw(seed)
        exact, plain = exactly(layer, x, grad), run(by_formulas(layer), x, grad)
        outcome = run(layer, x, grad)  # last: in training it updates the layer's running statistics
        assert outcome["output"].stride() == x.stride()
        budget.add(outcome, plain, exact, x.dtype)
    budget.check()


def assert_equal(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Equal bit for bit."""
    assert actual.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(actual[name], expected[name])] == []


def captured(
    step: Callable[[], dict[str, Tensor]], device: torch.device
) -> tuple[Callable[[], object], dict[str, Tensor]]:
    """A step in a CUDA graph: its replay, and the tensors that each replay fills. On the CPU the step runs again."""
    if device.type == "cpu":
        results = step()
        return lambda: [results[name].copy_(value) for name, value in step().items()], results
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = step()
    return graph.replay, results


def forbidding_synchronisation(device: torch.device) -> AbstractContextManager[None]:
    """A block in which torch raises where the host waits for the GPU."""
    return nullcontext() if device.type == "cpu" else _Forbidding()


class _Forbidding(AbstractContextManager[None]):
    def __enter__(self) -> None:
        self.before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")

    def __exit__(self, *_: object) -> None:
        torch.cuda.set_sync_debug_mode(self.before)
