"""Memory of a step: on the CPU from every allocation and release in order, on CUDA from the allocator's peak."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # silences the profiler's search for a GPU; read on its first use

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

from .steps import Step

_FORWARD = "benchmark forward"


class Memory(NamedTuple):
    """Bytes beyond what is allocated before the step: input, parameters and incoming gradient.

    kept_bytes: between forward and backward, without the output. peak_bytes: the largest sum during the step.
    peak_extra: the same without the output and the gradient of the input.
    """

    kept_bytes: int
    peak_bytes: int
    peak_extra: int


class Event(NamedTuple):
    """An allocation (bytes > 0) or a release (bytes < 0) at an address."""

    address: int
    bytes: int


def measure(step: Step) -> Memory:
    """Return the memory of one step, after a first one that fills the caches; gradients of parameters count."""
    step()
    return _measure_cuda(step) if step.forward().is_cuda else _measure_cpu(step)


def _measure_cpu(step: Step) -> Memory:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        with record_function(_FORWARD):
            out = step.forward()
        gradients = step.backward(out)
    before, after = _events(profiler)
    return replay(before, after, _addresses(out, gradients))


def _addresses(out: Tensor, gradients: tuple[Tensor, ...]) -> set[int]:
    """Return the addresses of the output and of the gradient of the input (the one of the output's shape)."""
    like_input = [g for g in gradients[:1] if g.shape == out.shape and out.dim()]
    return {t.untyped_storage().data_ptr() for t in (out, *like_input)}


def replay(forward: list[Event], backward: list[Event], results: set[int]) -> Memory:
    """Return a step's memory from its events. `results`: addresses of the tensors that `peak_extra` leaves out."""
    events = forward + backward
    last = {event.address: i for i, event in enumerate(events) if event.bytes > 0}
    result_events = {last[address] for address in results if address in last}
    live: dict[int, tuple[int, int]] = {}  # address -> bytes, and bytes outside `results`
    total = without = kept = peak = extra = 0
    for i, (address, size) in enumerate(events):
        if size > 0:
            live[address] = size, 0 if i in result_events else size
            total, without = total + live[address][0], without + live[address][1]
        else:  # what was allocated before the step does not count
            released = live.pop(address, (0, 0))
            total, without = total - released[0], without - released[1]
        peak, extra = max(peak, total), max(extra, without)
        if i == len(forward) - 1:
            kept = without
    return Memory(kept, peak, extra)


def _events(profiler: profile) -> tuple[list[Event], list[Event]]:
    """Return the profile's memory events up to the end of the forward, and those after it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        trace = json.loads(path.read_text())["traceEvents"]
    forward = next(e for e in trace if e.get("name") == _FORWARD and e["ph"] == "X")
    end = forward["ts"] + forward["dur"]
    records = sorted((e for e in trace if e.get("name") == "[memory]"), key=lambda e: e["args"]["Ev Idx"])
    events = [Event(record["args"]["Addr"], record["args"]["Bytes"]) for record in records]
    count = sum(record["ts"] <= end for record in records)
    return events[:count], events[count:]


def _measure_cuda(step: Step) -> Memory:
    torch.cuda.synchronize()
    start = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    out = step.forward()
    kept = torch.cuda.memory_allocated() - start - out.untyped_storage().nbytes()
    gradients = step.backward(out)
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - start
    outside = sum(t.untyped_storage().nbytes() for t in (out, *gradients[:1]))
    return Memory(kept, peak, peak - outside)
