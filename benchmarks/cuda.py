"""What is special about a GPU: time by events with a cold cache, and the precision of float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

FLUSH_BYTES = 256 << 20  # more than the L2 cache of any GPU there is


class EventSampler:
    """Seconds a call between two events, the L2 cache flushed before each.

    Eager steps start on an idle GPU: what the host takes to launch them counts. Graphs are queued behind the flush:
    the GPU's time alone.
    """

    def __init__(self) -> None:
        self.flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda")

    def __call__(self, step: Callable[[], object], calls: int) -> float:
        pairs = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(calls)]
        for start, end in pairs:
            self.flush.zero_()
            if not getattr(step, "graph", False):
                torch.cuda.synchronize()
            start.record()
            step()
            end.record()
        torch.cuda.synchronize()
        return sum(start.elapsed_time(end) for start, end in pairs) / calls / 1e3


@contextmanager
def full_precision() -> Iterator[None]:
    """Convolutions and products of float32 in float32, for the gate; timed they are as torch has them (TF32)."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
