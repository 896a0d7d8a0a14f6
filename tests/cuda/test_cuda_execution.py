"""Fused layers as CUDA runs them: graphs, streams, devices, no synchronisation, the same bits again, 2^31 elements."""

import copy

import pytest
import torch

from tests.cuda.on_device import LAYOUTS, SMALL, assert_equal, captured, forbidding_synchronisation, placed
from tests.layers.cases import EmamCase, ScamCase, assert_same, run

LAYOUT = pytest.mark.parametrize("layout", LAYOUTS)
CASE = pytest.mark.parametrize("case", SMALL, ids=str)


def sized(case, device):
    """The case at a size that keeps a GPU busy."""
    return case if device.type == "cpu" else case._replace(batch=16, channels=192, height=33, width=35)


@LAYOUT
@CASE
def test_graph_replays_are_eager_steps(case, layout, device):
    """Captured once, replayed on other numbers: bit for bit the results and running statistics of eager mode."""
    case = sized(case, device)
    layer, x, grad = placed(case, device, layout=layout)
    eager, *_ = placed(case, device, layout=layout)
    replay, results = captured(lambda: run(layer, x, grad), device)
    eager.load_state_dict(layer.state_dict())
    for seed in (5, 6):
        _, new_x, new_grad = placed(case, device, layout=layout, seed=seed)
        x.copy_(new_x), grad.copy_(new_grad)
        replay()
        assert_equal(results, run(eager, new_x, new_grad))


@LAYOUT
@CASE
def test_five_runs_give_the_same_bits(case, layout, device):
    case = sized(case, device)
    first, *others = (run(*placed(case, device, torch.float16, layout)) for _ in range(5))
    for other in others:
        assert_equal(other, first)


@LAYOUT
@CASE
def test_the_host_never_waits(case, layout, device):
    layer, x, grad = placed(sized(case, device), device, layout=layout)
    run(layer, x, grad)  # kernels are compiled on the first call
    with forbidding_synchronisation(device):
        run(layer, x, grad)


@pytest.mark.cuda
def test_a_waiting_host_is_noticed(gpu):
    with pytest.raises(RuntimeError, match="synchroniz"), forbidding_synchronisation(gpu):
        torch.ones(1, device=gpu).item()


@CASE
def test_two_streams_at_once(case, device):
    case = sized(case, device)
    work = [placed(case, device, seed=seed) for seed in range(2)]
    states = [copy.deepcopy(layer.state_dict()) for layer, *_ in work]
    expected = [run(*step) for step in work]
    streams = [None if device.type == "cpu" else torch.cuda.Stream() for _ in work]
    for stream in streams:
        if stream:
            stream.wait_stream(torch.cuda.current_stream())
    outcomes = []
    for _ in range(2 if device.type == "cpu" else 20):
        for (layer, x, grad), state, stream in zip(work, states, streams):
            with torch.cuda.stream(stream):
                layer.load_state_dict(state)
                outcomes.append(run(layer, x, grad))
    if device.type == "cuda":
        torch.cuda.synchronize()
    for i, outcome in enumerate(outcomes):
        assert_equal(outcome, expected[i % 2])


@pytest.mark.cuda
@CASE
def test_a_gpu_that_is_not_the_current_one(case, gpu):
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU only")
    expected = run(*placed(sized(case, gpu), torch.device("cuda:0")))
    assert torch.cuda.current_device() == 0
    outcome = run(*placed(sized(case, gpu), torch.device("cuda:1")))
    assert torch.cuda.current_device() == 0
    assert {t.device.index for t in outcome.values()} == {1}
    assert_same({name: t.to("cuda:0") for name, t in outcome.items()}, expected, 1e-5)


# Samples are independent, so the first and the last one of a huge batch are enough.
HUGE = [EmamCase(513, 64, 8, 256, 256), ScamCase(513, 64, 16, 256, 256)]


@pytest.mark.xdist_group("most of the GPU's memory")
@LAYOUT
@pytest.mark.parametrize("case", HUGE, ids=["emam", "scam"])
def test_more_elements_than_32_bits_count(case, layout, device):
    case = case._replace(channels=8, groups=4) if device.type == "cpu" and isinstance(case, EmamCase) else case
    if device.type == "cpu":
        case = case._replace(batch=5, channels=8, height=5, width=4)
    else:
        assert case.batch * case.channels * case.height * case.width > 2**31
        free, _ = torch.cuda.mem_get_info()
        if free < 40e9:
            pytest.skip(f"needs 40 GB of GPU memory, {free / 1e9:.0f} are free")
    layer, ends, end_grads = placed(case._replace(batch=2), device, torch.float16, layout)
    x, grad = (spread(t, case.batch) for t in (ends, end_grads))
    outcome, expected = run(layer, x, grad), run(layer, ends, end_grads)
    for name in ("output", "grad x"):
        outcome[name] = outcome[name][[0, -1]]
    assert_same(outcome, expected, 2 * torch.finfo(torch.float16).eps)


def spread(ends, batch):
    """A batch of zeros between the first and the last sample."""
    shape = (batch, *ends.shape[1:])
    layout = torch.contiguous_format if ends.is_contiguous() else torch.channels_last
    whole = torch.empty(shape, dtype=ends.dtype, device=ends.device, memory_format=layout).zero_()
    whole[0], whole[-1] = ends
    return whole
