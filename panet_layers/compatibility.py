"""Everything that depends on torch's version: what 2.6 does not have, and what Dynamo cannot trace there."""

import sys
from collections.abc import Callable
from typing import TypeVar

import torch
from torch.autograd import forward_ad

T = TypeVar("T")


def called_not_traced(function: Callable[[], T]) -> Callable[[], T]:
    """As `torch.compiler.assume_constant_result`, which imports Dynamo; that takes seconds."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@called_not_traced
def transformed() -> bool:
    """Return whether torch.func or forward-mode differentiation is active: they need plain operations."""
    return torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0


def run_as_it_is(function: Callable[..., None]) -> Callable[..., None]:
    """Keep Dynamo from compiling a model's hook: strict export, in torch 2.9 and before, compiles one function only."""
    frames = torch._C._dynamo.eval_frame
    if hasattr(frames, "skip_code"):  # torch 2.6
        frames.skip_code(function.__code__)
    elif hasattr(frames, "set_code_exec_strategy"):
        skip, default = frames._FrameAction.SKIP, frames._FrameAction.DEFAULT
        frames.set_code_exec_strategy(function.__code__, frames._FrameExecStrategy(skip, default))
    return function


@called_not_traced
def is_exporting() -> bool:
    """Return whether torch.export is active. (Dynamo of torch 2.7 to 2.10 thinks so in every torch.compile.)"""
    if hasattr(torch.compiler, "is_exporting"):
        return torch.compiler.is_exporting()
    trace = sys.modules.get("torch.export._trace")  # torch 2.6; the first export imports it
    return trace is not None and trace._EXPORT_MODULE_HIERARCHY is not None
