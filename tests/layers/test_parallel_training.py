"""Two processes (gloo) have the gradients of one on the joined batch: DDP, FSDP2, checkpointing, accumulation."""

import pytest
import torch
import torch.multiprocessing as mp

from panet_layers import use_backend
from tests.layers import two_trainers
from tests.layers.cases import assert_same
from tests.layers.two_trainers import WAYS, after_a_step, loss, network, share


@pytest.mark.parametrize("kind", ["ddp", pytest.param("fsdp2", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name", [pytest.param("timm", marks=pytest.mark.long), "inserted", pytest.param("panet", marks=pytest.mark.slow)]
)
def test_gradients_and_step_are_those_of_one_process(name, kind, tmp_path):
    """One process's are by the papers' formulas."""
    if kind == "fsdp2" and not hasattr(torch.cpu.Stream, "record_event"):
        pytest.skip("needs a torch with FSDP2 on CPUs")
    model = network(name)
    with use_backend("reference"):
        loss(model, share(name)).backward()
    expected = after_a_step(model)
    assert all(value.any() for key, value in expected.items() if key.startswith("grad "))

    mp.spawn(two_trainers.run, args=(str(tmp_path), name, kind), nprocs=2)
    for rank in range(2):
        results = torch.load(tmp_path / f"{rank}.pt")
        assert results.keys() == WAYS[kind].keys()
        for way, result in results.items():
            assert_same(
                {f"{way}: {key}": value for key, value in result.items()},
                {f"{way}: {key}": value for key, value in expected.items()},
            )
