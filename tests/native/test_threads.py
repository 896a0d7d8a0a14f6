"""The compiled kernels among threads and processes: called by several threads of Python, and after a fork."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from panet_layers.ops.native.tensors import threads_for
from tests.layers.cases import EmamCase, ScamCase, run, tensors, with_backend

CASES = [EmamCase(2, 24, 4, 33, 40), ScamCase(2, 24, 4, 33, 40, norm="batch", training=False)]

pytestmark = pytest.mark.usefixtures("kernels")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_calls_from_several_threads(case, use_threads):
    use_threads(2)
    layer = with_backend(case.layer(dtype=torch.float32), "native")
    inputs = [tensors(case, seed, dtype=torch.float32) for seed in range(6)]
    alone = [run(layer, x, grad) for x, grad in inputs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda pair: run(layer, *pair), inputs * 5))
    for result, expected in zip(together, alone * 5):
        assert all(torch.equal(result[name], expected[name]) for name in expected)


class Attended(Dataset):
    """A data set whose items a layer has worked on, as an augmentation by a network may."""

    def __init__(self, layer, items):
        self.layer, self.items = layer, items

    def __len__(self):
        return len(self.items)

    @torch.no_grad()
    def __getitem__(self, index):
        return self.layer(self.items[index])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_workers_of_a_data_loader(case, use_threads):
    """They are forked from a process that has used two threads."""
    use_threads(2)
    layer = with_backend(case.layer(dtype=torch.float32), "native")
    data = Attended(layer, [tensors(case, seed, dtype=torch.float32)[0] for seed in range(4)])
    expected = torch.stack([data[index] for index in range(4)])
    use_threads(1)  # as torch.get_num_threads() is in a worker
    loader = DataLoader(data, batch_size=4, num_workers=2, multiprocessing_context="fork", timeout=60)
    assert torch.equal(next(iter(loader)), expected)


def test_the_number_of_threads_is_torchs():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert threads_for(torch.empty(9), 8) == 3
        assert threads_for(torch.empty(8), 8) == 1
    finally:
        torch.set_num_threads(before)
