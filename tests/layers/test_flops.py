"""torch's FlopCounterMode: the products of the paper's formulas, whatever runs."""

import pytest
import torch
from torch import nn
from torch.utils import flop_counter
from torch.utils.flop_counter import FlopCounterMode

from panet_layers import EMAM, functional
from panet_layers.ops.emam.operators import OPERATORS as EMAM_OPERATORS
from panet_layers.ops.scam.operators import OPERATORS as SCAM_OPERATORS
from tests.devices import on_interpreter
from tests.layers.cases import HAND_WRITTEN, SMALL, tensors, with_backend

ALL = [operator for table in (EMAM_OPERATORS, SCAM_OPERATORS) for pair in table.values() for operator in pair]


def counted(layer, x, grad):
    """The FLOPs of a forward, and those of a forward and a backward."""
    x = x.clone().requires_grad_()
    with FlopCounterMode(display=False) as counter:
        out = layer(x)
        forward = counter.get_total_flops()
        out.backward(grad)  # not `torch.autograd.grad`: the counter's hooks do not support it
    return forward, counter.get_total_flops()


@pytest.mark.usefixtures("by_hand_at_any_size")
@pytest.mark.parametrize("backend", [*HAND_WRITTEN, "triton"])
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_operators_count_what_the_formulas_count(case, backend):
    if backend == "triton":
        on_interpreter()
    x, grad = tensors(case)
    expected = counted(with_backend(case.layer(), "reference"), x, grad)
    assert expected[0] > 0 and expected[1] == 3 * expected[0]
    assert counted(with_backend(case.layer(), backend), x, grad) == expected


@pytest.mark.usefixtures("by_hand_at_any_size")
def test_a_network_lists_the_layer_by_its_name():
    case = SMALL[0]
    network = nn.Sequential(
        nn.Conv2d(3, case.channels, 1, dtype=torch.float64), with_backend(case.layer(), "collapsed")
    )
    with FlopCounterMode(display=False) as counter:
        network(torch.randn(2, 3, 5, 4, dtype=torch.float64))
    of_layer = counter.get_flop_counts()["Sequential.1"]
    assert torch.ops.panet_layers.emam_forward in of_layer and network[1].called_part() == ""


@pytest.fixture
def unregistered(monkeypatch):
    """As in a process that has imported torch's counter after the layers, whose import must not import triton."""
    for operator in ALL:
        monkeypatch.delitem(flop_counter.flop_registry, operator, raising=False)


@pytest.mark.usefixtures("by_hand_at_any_size", "unregistered")
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_counter_that_was_imported_later(case):
    x, grad = tensors(case)
    assert counted(with_backend(case.layer(), "collapsed"), x, grad)[0] > 0


@pytest.mark.usefixtures("by_hand_at_any_size", "unregistered")
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_a_backward_alone(case):
    x, grad = tensors(case)
    layer = with_backend(case.layer(), "collapsed")
    forward, both = counted(layer, x, grad)
    for operator in ALL:
        flop_counter.flop_registry.pop(operator, None)
    out = layer(x.clone().requires_grad_())
    with FlopCounterMode(display=False) as counter:
        out.backward(grad)
    assert counter.get_total_flops() == both - forward


@pytest.mark.usefixtures("by_hand_at_any_size", "unregistered")
def test_a_function():
    x = torch.randn(2, 8, 5, 4)
    layer = EMAM(8, 2)
    with FlopCounterMode(display=False) as counter:
        functional.emam(x, *layer.parameters(), groups=2, backend="collapsed")
    assert counter.get_total_flops() > 0
