"""Drill: many steps, insertions and compiled shapes: memory does not grow; no thread, open file or process is left."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from panet_layers import EMAM, SCAM, insert_attention, remove_attention
from panet_layers.models import PANet, PANetLoss
from tests.drills.resident_memory import MOST_GROWTH, grown

pytestmark = pytest.mark.long


def test_two_thousand_steps_of_the_tiny_network() -> None:
    torch.manual_seed(0)
    model, loss = PANet(variant="tiny"), PANetLoss()
    optimizer = torch.optim.Adam(model.parameters())
    images, labels = torch.rand(4, 3, 64, 64) * 2 - 1, torch.tensor([0, 0, 1, 1])

    def step() -> None:
        optimizer.zero_grad()
        loss(model(images), images, labels).total.backward()
        optimizer.step()

    assert grown(step, 200, 1800) < MOST_GROWTH


def test_fifty_insertions_and_removals() -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("resnet18").eval()
    names = set(model.state_dict())

    def there_and_back() -> None:
        insert_attention(model, "stages", EMAM)
        model(torch.rand(1, 3, 64, 64))
        remove_attention(model)

    assert grown(there_and_back, 10, 50) < MOST_GROWTH and set(model.state_dict()) == names


@pytest.mark.parametrize("layer", [EMAM, SCAM])
def test_twenty_compiled_shapes(layer: type[nn.Module]) -> None:
    """With sizes that change, torch.compile makes one code for all after the second."""
    compiled = torch.compile(layer(16), dynamic=None)
    sizes = iter(range(8, 8 + 3 * 20, 3))

    def one_more() -> None:
        compiled(torch.rand(2, 16, next(sizes), 9)).sum().backward()

    assert grown(one_more, 5, 15) < MOST_GROWTH
