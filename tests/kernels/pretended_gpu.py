"""Triton specialises and compiles for a GPU that is not there, and what it would launch goes to a function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction


class _Driver:
    """The part of Triton's driver that a compilation needs."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_device(self) -> int:
        return self.capability  # another device for each, so that Triton keeps their kernels apart

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


class Launch(NamedTuple):
    """kernel[grid](*arguments, **options); `compiled()` returns Triton's compiled kernel."""

    function: JITFunction
    grid: Any
    arguments: tuple
    options: dict[str, Any]
    compiled: Callable[[], Any]

    @property
    def bound(self) -> dict[str, Any]:
        """The function's arguments by name, defaults included; the options that are not arguments are left out."""
        signature = self.function.signature
        named = {name: value for name, value in self.options.items() if name in signature.parameters}
        bound = signature.bind(*self.arguments, **named)
        bound.apply_defaults()
        return bound.arguments

    @property
    def constants(self) -> dict[str, Any]:
        """The arguments that the code is compiled for, as plain values."""
        values = {p.name: self.bound[p.name] for p in self.function.params if p.is_constexpr}
        return {name: v if isinstance(v, bool | int | float) else str(v) for name, v in values.items()}


def pretend(capability: int) -> None:
    """Make Triton believe that the current GPU has this compute capability: 90 for 9.0."""
    triton.runtime.driver.set_active(_Driver(capability))


@contextmanager
def pretended_gpu(capability: int, launched: Callable[[Launch], None]) -> Iterator[None]:
    """Call `launched` for what is launched in the block."""
    original = JITFunction.run

    def run(self: JITFunction, *arguments: Any, grid: Any, warmup: bool = False, **options: Any) -> None:
        compiled = lambda: original(self, *arguments, grid=grid, warmup=True, **options)  # noqa: E731
        launched(Launch(self, grid, arguments, options, compiled))

    pretend(capability)
    JITFunction.run = run
    try:
        yield
    finally:
        JITFunction.run = original
