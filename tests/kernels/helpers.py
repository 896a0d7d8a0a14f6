"""What the tests of the kernels share: runs on a device beside the reference, error budgets, torch's opcheck."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.devices import interpreting
from tests.layers.cases import Case, EmamCase, assert_same, poisoned_memory, run, tensors, with_backend
from tests.layers.inputs import LAYOUTS
from tests.layers.precision import Budget, lowered, plain_run


def outcomes(
    layer: nn.Module, x: Tensor, grad: Tensor, device: torch.device | str = "cpu", backend: str = "triton"
) -> tuple[dict, dict]:
    """The kernels' outcome, on memory that is NaN until written, and the reference's."""
    x, grad, layer = x.to(device), grad.to(device), layer.to(device)
    expected = run(with_backend(layer, "reference"), x, grad)
    with poisoned_memory():
        return run(with_backend(layer, backend), x, grad), expected


def fused_run(
    layer: nn.Module, x: Tensor, grad: Tensor, device: torch.device | str = "cpu", layout: str = "contiguous"
) -> dict[str, Tensor]:
    """As `run`, by the kernels, on memory that is NaN until written; the outcome on the CPU."""
    x, grad = (LAYOUTS[layout](t.to(device)) if t.numel() else t.to(device) for t in (x, grad))
    with poisoned_memory():
        outcome = run(with_backend(layer, "triton").to(device), x, grad)
    return {name: value.cpu() for name, value in outcome.items()}


def reference_run(layer: nn.Module, x: Tensor, grad: Tensor, layout: str = "contiguous") -> dict[str, Tensor]:
    """As `run`, by the reference."""
    x, grad = (LAYOUTS[layout](t) if t.numel() else t for t in (x, grad))
    return run(with_backend(layer, "reference"), x, grad)


def assert_non_finite_alike(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Not finite in the same elements, and equal in the others."""
    for name, tensor in expected.items():
        assert torch.equal(actual[name].isfinite(), tensor.isfinite()), name
    assert_same(*({name: t.nan_to_num(0, 0, 0) for name, t in outcome.items()} for outcome in (actual, expected)))


def skip_truncation(dtype: torch.dtype, device: torch.device) -> None:
    """Triton's interpreter truncates to bfloat16 where a GPU rounds: judge bfloat16 on a GPU."""
    if dtype == torch.bfloat16 and device.type == "cpu" and interpreting():
        pytest.skip("Triton's interpreter truncates to bfloat16 where a GPU rounds")


def check_budget(
    fused: Callable[..., dict[str, Tensor]], case: Case, dtype: torch.dtype, shift: float, draws: int, device: Any
) -> None:
    """`fused(layer, x, grad)` within the budget that the plain formulas set on this device."""
    budget = Budget()
    for seed in range(draws):
        low, high = ([part.to(device) for part in parts] for parts in lowered(case, dtype, shift, seed))
        budget.add(fused(*low), plain_run(*low), run(*high), dtype)
    budget.check()


def check_large_offset(
    case: EmamCase, memory_format: torch.memory_format, device: torch.device | str = "cpu", backend: str = "triton"
) -> None:
    """An offset of 1000 standard deviations costs digits, not the answer: variances are of centred values."""
    layer = case.layer().to(device)
    with torch.no_grad():
        layer.conv1x1.weight.mul_(1e-4)
    x = tensors(case)[0].to(device, memory_format=memory_format) + 1000
    exact = with_backend(layer, "reference")(x)
    single = with_backend(layer, backend).float()(x.float())
    plain = with_backend(layer, "reference").float()(x.float())
    assert (single - exact).norm() <= 2 * (plain - exact).norm() + 1e-7 * exact.norm()
