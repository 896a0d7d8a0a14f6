"""timm's own arguments that put a layer into each block, by family: forward, backward, plain weights."""

from dataclasses import replace
from functools import partial

import pytest
import timm
import torch
from timm.models.cspnet import model_cfgs

from panet_layers import EMAM, SCAM

LAYERS = [EMAM, SCAM, partial(EMAM, groups=4)]


def in_resnet(layer):
    return {"block_args": {"attn_layer": layer}}


def in_byonet(layer):
    """The configuration may hold arguments of the squeeze-and-excitation that the layer replaces."""
    return {"attn_layer": layer, "attn_kwargs": {}}


def in_cspnet(layer, name):
    """The layer is part of the stages' configuration; the blocks pass their activation to it too."""
    return {
        "stages": replace(
            model_cfgs[name].stages,
            attn_layer=lambda channels, act_layer=None, **options: layer(channels, **options),
            attn_kwargs=None,
        )
    }


FAMILIES = [
    ("test_resnet", in_resnet),  # basic blocks and bottlenecks
    ("resnext26ts", in_byonet),  # byobnet, bottlenecks
    ("repvgg_a0", in_byonet),
    ("test_byobnet", in_byonet),  # it has squeeze-and-excitation of its own
    ("cspresnet50", partial(in_cspnet, name="cspresnet50")),
    ("cspdarknet53", partial(in_cspnet, name="cspdarknet53")),
    ("cs3darknet_s", partial(in_cspnet, name="cs3darknet_s")),
]


@pytest.mark.parametrize("layer", LAYERS, ids=["EMAM", "SCAM", "partial"])
@pytest.mark.parametrize(("name", "into"), FAMILIES, ids=[name for name, _ in FAMILIES])
def test_attn_layer_takes_our_layers(name, into, layer):
    torch.manual_seed(0)
    plain = timm.create_model(name, num_classes=3).state_dict()
    model = timm.create_model(name, num_classes=3, **into(layer))
    kind = layer.func if isinstance(layer, partial) else layer
    layers = {n: module for n, module in model.named_modules() if isinstance(module, kind)}
    assert len(layers) >= 4 and all(getattr(module, "groups", 4) in (4, 8) for module in layers.values())

    missing, unexpected = model.load_state_dict(plain, strict=False)
    own = tuple(f"{n}." for n in layers)
    assert missing and all(key.startswith(own) for key in missing)
    # Only test_byobnet has layers that these replace.
    assert not unexpected or (name == "test_byobnet" and all(key.startswith(own) for key in unexpected))
    with torch.no_grad():
        for p in model.parameters():  # a block's last normalisation starts at zero, and hides the layer before it
            p.add_(torch.randn(p.shape), alpha=0.02)
    model(torch.randn(2, 3, 64, 64)).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert all(any(p.grad.any() for p in module.parameters()) for module in layers.values())
