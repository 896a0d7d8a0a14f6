"""EMAM's kernels in CUDA C on a GPU: errors, graphs, streams, threads."""

import threading

import pytest
import torch

from panet_layers.backends import available_backends
from tests.cuda.on_device import assert_equal, by_formulas, captured, exactly, forbidding_synchronisation
from tests.layers.cases import EmamCase, run, tensors, with_backend
from tests.layers.precision import Budget

pytestmark = pytest.mark.cuda

CASES = [
    EmamCase(2, 12, 4, 7, 5),
    EmamCase(1, 182, 2, 19, 19),
    EmamCase(1, 64, 2, 37, 37),
    EmamCase(1, 16, 2, 147, 147),
]
SMALL = CASES[0]


@pytest.fixture
def device(gpu):
    if reason := available_backends()["cuda"]:
        pytest.skip(reason)
    return gpu


def placed(case, device, dtype=torch.float32, seed=0):
    """The layer, an input and a gradient."""
    layer = with_backend(case.layer(seed, dtype=dtype), "cuda").to(device)
    return layer, *(t.to(device, dtype) for t in tensors(case, seed + 1))


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_within_the_budget(case, dtype, device):
    budget = Budget()
    for seed in range(3):
        layer, x, grad = placed(case, device, dtype, seed)
        budget.add(run(layer, x, grad), run(by_formulas(layer), x, grad), exactly(layer, x, grad), dtype)
    budget.check()


def test_a_step_in_a_graph_is_the_same_step(device):
    layer, x, grad = placed(SMALL, device)
    expected = run(layer, x, grad)
    replay, results = captured(lambda: run(layer, x, grad), device)
    replay()
    torch.cuda.synchronize()
    assert_equal(results, expected)


def test_a_kernel_that_is_new_can_be_launched_in_a_capture(device):
    layer, x, _ = placed(EmamCase(1, 12, 4, 6, 23), device)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad():
        by_formulas(layer)(x)  # cuBLAS has its memory
        with torch.cuda.graph(graph):
            out = layer(x)
        graph.replay()
        torch.testing.assert_close(out, by_formulas(layer)(x))


def test_another_stream_and_another_thread(device):
    layer, x, grad = placed(SMALL, device)
    expected, results = run(layer, x, grad), []
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        results.append(run(layer, x, grad))
    stream.synchronize()
    thread = threading.Thread(target=lambda: results.append(run(layer, x, grad)))
    thread.start()
    thread.join()
    torch.cuda.synchronize()
    assert len(results) == 2
    for result in results:
        assert_equal(result, expected)


def test_the_host_does_not_wait(device):
    layer, x, _ = placed(SMALL, device)
    with torch.no_grad():
        layer(x)
        with forbidding_synchronisation(device):
            layer(x)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_each_device_has_its_own_code(device):
    outcomes = [run(*placed(SMALL, torch.device("cuda", index))) for index in (0, 1)]
    assert_equal(*({name: value.cpu() for name, value in outcome.items()} for outcome in outcomes))
