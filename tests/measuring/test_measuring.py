"""How the benchmarks measure: exact memory, the statistic of alternating rounds, events on a GPU."""

from __future__ import annotations

import dataclasses
from unittest import mock

import pytest
import torch

from panet_layers.measuring import memory, timing
from panet_layers.measuring.memory import Event
from panet_layers.measuring.steps import Step


def test_memory_is_as_counted_by_hand():
    elements, size = 1000 * 16, 4 * 1000 * 16
    x, grad = torch.randn(1000, 16, requires_grad=True), torch.ones(1000, 16)

    # The sigmoid is kept. Backward: grad * output, then the gradient of x; both are allocated beside the sigmoid.
    step = Step(lambda: x.sigmoid().exp(), lambda out: torch.autograd.grad(out, [x], grad))
    assert memory.measure(step) == (size, 4 * size, 2 * size)

    # The product keeps its inputs, which were allocated before; backward allocates two gradients.
    y = torch.randn(1000, 16, requires_grad=True)
    step = Step(lambda: x * y, lambda out: torch.autograd.grad(out, [x, y], grad))
    assert memory.measure(step) == (0, 3 * size, size)

    # A forward alone: the temporary is released, but counts in the peak.
    step = Step(lambda: x.detach().double().sum())
    assert memory.measure(step) == (0, 8 * elements + 8, 8 * elements)


def test_replay_ignores_earlier_allocations_and_follows_reused_addresses():
    forward = [Event(1, 100), Event(9, -500), Event(2, 30), Event(1, -100), Event(3, 50)]
    backward = [Event(2, -30), Event(1, 200), Event(4, 10)]
    assert memory.replay(forward, backward, {3, 1}) == (30, 260, 130)


def test_the_statistic_leaves_disturbed_rounds_out():
    baseline = [10.0, 10.1, 50.0, 10.2, 9.9, 10.0, 10.1, 10.0]
    fast = [5.0, 5.1, 5.0, 5.1, 9.0, 9.0, 5.0, 5.0]
    result = timing.compare({"reference": baseline, "fast": fast})
    assert result["fast"].kept == 5 and result["fast"].rounds == 8
    assert result["fast"].speedup == pytest.approx(2, rel=0.02)
    assert result["fast"].milliseconds == pytest.approx(5000)
    assert result["reference"] == (pytest.approx(10000), 1.0, 7, 8)


def test_the_statistic_keeps_the_least_disturbed_rounds_if_most_are_disturbed():
    result = timing.compare({"reference": [1.0, 3.0, 9.0, 5.0], "fast": [9.0, 1.0, 1.0, 7.0]})
    assert result["fast"].kept == 3


def test_contenders_alternate_and_rounds_are_added_while_disturbed():
    order, now = [], [0.0]

    def step(name, seconds):
        def call():
            order.append(name)
            now[0] += seconds()

        return call

    # After the warm-up every second sample stalls; of each pair of calls the second is timed.
    stalls = iter([1.0] * 3 + [5.0, 1.0, 5.0, 2.0] * 100)
    both = {"a": step("a", lambda: next(stalls)), "b": step("b", lambda: 0.5)}
    result = timing.measure(both, 4, clock=lambda: now[0])
    assert order[6:14] == ["a", "a", "b", "b", "b", "b", "a", "a"]
    assert result["b"].speedup == pytest.approx(2)
    assert 4 <= result["b"].rounds <= 12


class FakeEvent:
    """A CUDA event on a simulated clock, on which a step takes 3 ms and everything else no time."""

    now = 0.0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.at = FakeEvent.now

    def elapsed_time(self, end):
        return end.at - self.at


def test_time_by_events_leaves_the_flush_out(monkeypatch):
    waits = []
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waits.append(None))
    monkeypatch.setattr(timing, "torch", mock.Mock(wraps=torch, int8=torch.int8, cuda=torch.cuda))
    timing.torch.empty = lambda size, dtype, device: torch.empty(16, dtype=dtype)
    sample = timing.EventSampler()

    def forward():
        FakeEvent.now += 3

    step = Step(forward)
    assert sample(step, 4) == pytest.approx(3e-3) and len(waits) == 5  # each step starts on an idle GPU
    assert sample(dataclasses.replace(step, graph=True), 4) == pytest.approx(3e-3) and len(waits) == 6
    assert timing.measure({"a": step, "b": step}, 3, sample)["b"].milliseconds == pytest.approx(3)
