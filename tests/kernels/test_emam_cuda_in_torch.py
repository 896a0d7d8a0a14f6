"""EMAM's kernels in CUDA C under torch's modes, in the emulator: deterministic algorithms, torch.compile."""

import contextlib

import pytest
import torch

from panet_layers.ops.cuda import launching
from tests.devices import why_no_nvrtc
from tests.layers.cases import EmamCase, run, tensors, with_backend

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(why_no_nvrtc() is not None, reason=str(why_no_nvrtc())),
]
CASE = EmamCase(2, 6, 2, 9, 7)


@contextlib.contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("backend", ["cuda", "auto"])
def test_deterministic_mode_gives_the_same_bits_in_any_order_of_warps(backend, emulation, monkeypatch):
    layer, (x, grad) = CASE.layer(dtype=torch.float32), tensors(CASE, dtype=torch.float32)
    layer = with_backend(layer, backend)
    expected = run(layer, x, grad)
    with deterministic():
        outcomes = [run(layer, x, grad)]
        options = launching.machine.runner.options
        monkeypatch.setattr(launching.machine.runner, "options", options._replace(reverse=not options.reverse))
        outcomes.append(run(layer, x, grad))
    for outcome in outcomes:
        assert all(torch.equal(outcome[name], value) for name, value in expected.items())


@pytest.mark.parametrize("mark", [False, True], ids=["dynamic=True", "mark_dynamic"])
def test_one_compiled_graph_serves_all_sizes_and_is_eager(mark, emulation, fresh_compiler):
    eager, layer = (with_backend(CASE.layer(dtype=torch.float32), "cuda") for _ in range(2))
    layer.compile(fullgraph=True, backend="aot_eager", dynamic=None if mark else True)
    for i, (batch, height, width) in enumerate([(2, 9, 7), (3, 9, 7), (3, 5, 8), (4, 13, 11)]):
        x, grad = tensors(CASE._replace(batch=batch, height=height, width=width), dtype=torch.float32)
        expected, before = run(eager, x, grad), emulation.launches
        x = x.clone()
        for dim in (0, 2, 3) if mark else ():
            torch._dynamo.mark_dynamic(x, dim)
        x.requires_grad_()
        with torch._dynamo.config.patch(error_on_recompile=i > 0):
            out = layer(x)
            out.backward(grad)
        assert torch.equal(out, expected["output"]) and torch.equal(x.grad, expected["grad x"])
        assert emulation.launches == before + 6


def test_sizes_that_change_are_one_compilation_more(emulation, fresh_compiler):
    """Nothing is marked: torch takes the first size for constant, and the second for any."""
    layer = with_backend(CASE.layer(dtype=torch.float32), "cuda")
    layer.compile(fullgraph=True, backend="aot_eager")
    graphs = torch._dynamo.utils.counters["stats"]
    before = graphs["unique_graphs"]  # of tests that ran in this process
    for i, size in enumerate([(9, 7), (5, 6), (8, 11), (13, 4)]):
        x, grad = tensors(CASE._replace(height=size[0], width=size[1]), dtype=torch.float32)
        run(layer, x, grad)
        assert graphs["unique_graphs"] - before == (1 if i == 0 else 2)
