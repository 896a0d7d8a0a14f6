"""timm's own arguments that put a layer into each block, by family: forward, backward, plain weights."""

import importlib
import sys
from functools import partial

import pytest
import timm
import torch

from panet_layers import EMAM, SCAM
from panet_layers.integrations.timm import attn_layer

LAYERS = [EMAM, SCAM, partial(EMAM, groups=4)]
FAMILIES = [
    "test_resnet",  # basic blocks and bottlenecks
    "skresnet18",
    "resnext26ts",  # byobnet, bottlenecks
    "repvgg_a0",
    "test_byobnet",  # it has squeeze-and-excitation of its own
    "cspresnet50",
    "cspdarknet53",
    "cs3darknet_s",
    "test_nfnet",  # so does this
]
WITH_THEIR_OWN = ("test_byobnet", "test_nfnet")


@pytest.mark.parametrize("layer", LAYERS, ids=["EMAM", "SCAM", "partial"])
@pytest.mark.parametrize("name", FAMILIES)
def test_attn_layer_puts_our_layers_into_every_block(name, layer):
    if not timm.is_model(name):
        pytest.skip(f"timm {timm.__version__} has no {name}")
    torch.manual_seed(0)
    plain = timm.create_model(name, num_classes=3).state_dict()
    model = timm.create_model(name, num_classes=3, **attn_layer(name, layer))
    kind = layer.func if isinstance(layer, partial) else layer
    layers = {n: module for n, module in model.named_modules() if isinstance(module, kind)}
    assert len(layers) >= 4 and all(getattr(module, "groups", 4) in (4, 8) for module in layers.values())

    missing, unexpected = model.load_state_dict(plain, strict=False)
    own = tuple(f"{n}." for n in layers)
    assert missing and all(key.startswith(own) for key in missing)
    assert not unexpected or (name in WITH_THEIR_OWN and all(key.startswith(own) for key in unexpected))
    with torch.no_grad():
        for p in model.parameters():  # a block's last normalisation starts at zero, and hides the layer before it
            p.add_(torch.randn(p.shape), alpha=0.02)
    model(torch.randn(2, 3, 64, 64)).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert all(any(p.grad.any() for p in module.parameters()) for module in layers.values())


def test_the_other_options_of_the_blocks_stay():
    options = attn_layer("res2net50_26w_6s.in1k", EMAM)
    block_args = options.pop("block_args")
    made = block_args.pop("attn_layer")(16)
    assert not options and block_args == {"scale": 6} and type(made) is EMAM and made.channels == 16


@pytest.mark.parametrize("name", ["resnet18", "resnext26ts", "cs3darknet_s"])
def test_a_layer_is_called_with_its_channels_only(name):
    options = attn_layer(name, lambda channels: EMAM(channels, 4))
    model = timm.create_model(name, num_classes=3, **options)
    assert sum(isinstance(module, EMAM) for module in model.modules()) >= 4


def test_a_layer_is_on_the_device_and_in_the_dtype_of_the_network():
    made = attn_layer("resnet18", lambda channels: EMAM(channels, 4))["block_args"]["attn_layer"]
    layer = made(16, device="meta", dtype=torch.float64)
    assert all(p.is_meta and p.dtype == torch.float64 for p in layer.parameters())


@pytest.mark.parametrize(("model", "message"), [(None, "got None$"), (EMAM(16), "got a module, EMAM$")])
def test_a_model_that_is_no_name_is_refused(model, message):
    with pytest.raises(TypeError, match=f"model must be timm's name of a network, such as 'resnet18', {message}"):
        attn_layer(model, EMAM)


def test_without_timm_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.delitem(sys.modules, "panet_layers.integrations.timm")
    with pytest.raises(ImportError, match=r"timm can't be imported: .*; install it with pip install timm"):
        importlib.import_module("panet_layers.integrations.timm")


@pytest.mark.parametrize(
    ("name", "layer", "message"),
    [
        ("resnet19", EMAM, "has no network 'resnet19'"),
        ("resnet18", EMAM(64), "so give its class, not a module, EMAM$"),
        ("resnet18", lambda _: 3, "can't build resnet18 .* for 64 channels must be a module, got 3"),
        ("resnet18", "emam", "so give its class, not 'emam'"),
        ("resnet18", partial(EMAM, groups=7), r"can't build resnet18 .* groups=7 does not divide channels=64"),
        ("vit_tiny_patch16_224", EMAM, "vit_tiny_patch16_224 has no argument for a layer in its blocks"),
        ("efficientnet_b0", EMAM, "efficientnet_b0 has no argument for a layer in its blocks"),
        ("resnest14d", EMAM, "can't build resnest14d"),
        ("halonet_h1", EMAM, "builds halonet_h1 without a layer in its blocks; use panet_layers.insert_attention"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_what_timm_cannot_build_is_refused(name, layer, message):
    with pytest.raises(ValueError, match=message):
        attn_layer(name, layer)
