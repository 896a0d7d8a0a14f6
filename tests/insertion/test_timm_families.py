"""insert_attention and remove_attention on every family of models in timm, by stages and by name.

The tests take one small model of each module in timm's registry.
"""

import contextlib
import math

import pytest
import timm
import torch
from torch import Tensor

from panet_layers import EMAM, remove_attention
from panet_layers.insertion.refinement import Refinement
from tests.insertion.small_hosts import insert_alone
from tests.insertion.timm_models import modules, smallest

SLOW_FROM, LARGE_FROM, HUGE_FROM = 15_000_000, 25_000_000, 80_000_000  # parameters
SLOW = {"halonet_h1"}  # small, but ten seconds
CANNOT_TAKE_IT: dict[str, str] = {}  # module of timm -> why; the documentation lists the same


def families():
    for module in modules():
        name, parameters = smallest(module)
        marks = [pytest.mark.slow] if parameters >= SLOW_FROM or name in SLOW else []
        yield pytest.param(name, marks=marks, id=f"{module}-{name}")


def emam(channels):
    return EMAM(channels, math.gcd(channels, 8))


def images(model):
    """Two of timm's size; for a large model, to save time, one of half the size where the model accepts it."""
    size = model.pretrained_cfg["input_size"][1:]
    generator = torch.Generator().manual_seed(1)
    if sum(p.numel() for p in model.parameters()) < LARGE_FROM and max(size) < 500:
        return torch.randn(2, 3, *size, generator=generator)
    small = torch.randn(1, 3, *(side // 64 * 32 for side in size), generator=generator)
    try:
        with torch.no_grad():
            model(small)
        return small
    except Exception:  # a fixed size
        return torch.randn(1, 3, *size, generator=generator)


def total(output) -> Tensor:
    """A number that depends on every tensor of an output."""
    return output.square().mean() if isinstance(output, Tensor) else sum(total(part) for part in output)


def create(name):
    """The model; of a huge transformer only the first two blocks."""
    with torch.device("meta"):
        huge = sum(p.numel() for p in timm.create_model(name).parameters()) > HUGE_FROM
    if huge:
        with contextlib.suppress(TypeError):
            return timm.create_model(name, num_classes=7, depth=2)
    return timm.create_model(name, num_classes=7)


def without_zeros(model):
    """The model with noise on every parameter: some start at zero, and hide the layers before them."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape), alpha=0.02)
    return model


@pytest.mark.parametrize("name", list(families()))
def test_takes_layers_and_is_restored_without_them(name):
    torch.manual_seed(0)
    model = without_zeros(create(name)).eval()
    x = images(model)
    plain_state = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        plain = model(x)

    own_size = x.shape[2:] == model.pretrained_cfg["input_size"][1:]
    report = insert_alone(model, "stages", emam, example_input=None if own_size else x)

    missing = model.load_state_dict(plain_state, strict=False)
    assert missing.unexpected_keys == []
    assert missing.missing_keys and all(".inserted_attention" in key for key in missing.missing_keys)
    assert not torch.equal(model(x).detach(), plain)
    total(model.train()(x)).backward()
    layers = [module.layer for module in model.modules() if isinstance(module, Refinement)]
    assert len(layers) == len(report.rows)
    # Where the output depends on the class token alone, the last map does not reach it.
    used = [layer for layer in layers if all(p.grad is not None for p in layer.parameters())]
    assert len(used) >= max(1, len(layers) - 1)
    assert all(p.grad.isfinite().all() for layer in used for p in layer.parameters())
    assert any(p.grad.any() for p in used[0].parameters())

    remove_attention(model)
    assert model.state_dict().keys() == plain_state.keys()
    model.load_state_dict(plain_state)
    with torch.no_grad():
        assert torch.equal(model.eval()(x), plain)

    insert_alone(model, report.rows[0].name, emam, example_input=x)
    assert not torch.equal(model(x).detach(), plain)
