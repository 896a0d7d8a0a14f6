"""What a host set on a module or its parameters stays when replace_attention swaps it, or the module is left."""

import copy
import pickle

import pytest
import torch
from timm.layers.cbam import CbamModule
from torch import nn

from panet_layers import EMAM, SCAM, replace_attention
from tests.insertion.lookalikes import CBAM, EMA, host
from tests.layers.cases import randomised

LOOKALIKES = pytest.mark.parametrize(
    "lookalike",
    [lambda: EMA(32), lambda: CBAM(32), lambda: CbamModule(32), lambda: CbamModule(32, mlp_bias=True)],
    ids=["ema", "cbam", "timm", "timm-bias"],
)


class Routed(nn.Module):
    """A network as ultralytics builds it: it reads from each module where its input comes from."""

    def __init__(self, *layers):
        super().__init__()
        self.model, self.save = nn.Sequential(*layers), [0]
        for i, layer in enumerate(layers):
            layer.i, layer.f, layer.type, layer.np = (
                i,
                -1,
                type(layer).__name__,
                sum(p.numel() for p in layer.parameters()),
            )
        self.model[-1].f = [-1, 0]

    def forward(self, x):
        kept = []
        for module in self.model:
            x = module(*((kept[j] for j in module.f) if isinstance(module.f, list) else (x,)))
            kept.append(x)
        return x


class Sum(nn.Module):
    def forward(self, a, b):
        return a + b


@LOOKALIKES
def test_attributes_that_the_host_set_are_kept(lookalike):
    old = lookalike()
    model = Routed(nn.Conv2d(3, 32, 3), old, Sum()).eval()
    old.conv1x1_width, old.weight_of_loss = 4, torch.ones(3)
    set_by_host = {name: getattr(old, name) for name in ("i", "f", "type", "np", "conv1x1_width", "weight_of_loss")}
    x = torch.randn(2, 3, 9, 7)
    expected = model(x)

    assert len(replace_attention(model).swapped) == 1

    new = model.model[1]
    assert type(new) in (EMAM, SCAM) and {name: getattr(new, name) for name in set_by_host} == set_by_host
    torch.testing.assert_close(model(x), expected)
    torch.testing.assert_close(pickle.loads(pickle.dumps(copy.deepcopy(model)))(x), expected)


@pytest.mark.parametrize(
    ("lookalike", "gate", "name", "value"),
    [
        (EMA, "", "backend", "cudnn"),
        (EMA, "", "channels", 64),
        (EMA, "", "conv1x1_bias", None),
        (EMA, "", "called_part", "neck"),
        (CBAM, "", "channel", 32),
        (CBAM, "ChannelGate", "reduction", "mean"),
        (CbamModule, "spatial", "conv_", None),
        (CbamModule, "spatial", "bn", 3),
    ],
)
def test_attributes_whose_names_the_new_layer_uses_are_not_lost(lookalike, gate, name, value):
    old = lookalike(32)
    setattr(old.get_submodule(gate), name, value)
    report = replace_attention(host(old))
    if value is None:  # the new layer does not use this name
        assert report.swapped
    else:
        assert not report.swapped and name in report.left[0].reason and "attributes" in report.left[0].reason


def test_attributes_that_the_new_layer_has_too_are_no_obstacle():
    ema, cbam = EMA(32, factor=4), CBAM(32)
    ema.channels, cbam.channels, cbam.ChannelGate.reduction = 32, 32, 16
    assert len(replace_attention(host(ema, cbam)).swapped) == 2


def test_attributes_of_the_gates_are_kept():
    published, timms = CBAM(32), CbamModule(32)
    published.ChannelGate.tag, published.SpatialGate.f = "a", -1
    timms.channel.tag, timms.spatial.f = "a", -1
    published.SpatialGate.training = timms.spatial.training = False
    model = host(published, timms)
    replace_attention(model)
    for layer in model[1:3]:
        assert (layer.channel.tag, layer.spatial.f) == ("a", -1)
        assert layer.channel.training and not layer.spatial.training


def test_a_linear_layer_gets_no_settings_of_a_convolution():
    old = CbamModule(32)
    old.channel.fc1.tag = "a"
    model = host(old)
    replace_attention(model)
    assert vars(model[1].channel.fc1).keys() - vars(nn.Linear(1, 1)).keys() == {"tag"}


@pytest.mark.parametrize("register", ["register_hook", "register_post_accumulate_grad_hook"])
def test_hooks_of_parameters_are_not_lost(register):
    copied, kept = CBAM(32), CBAM(32)
    calls = []
    getattr(copied.SpatialGate.spatial.conv.weight, register)(lambda *_: calls.append(1))
    getattr(kept.ChannelGate.mlp[1].weight, register)(lambda *_: calls.append(1))
    model = host(copied, kept)
    report = replace_attention(model)
    assert [left.reason for left in report.left] == ["has hooks that would be lost"]
    assert [swap.name for swap in report.swapped] == ["2"]
    model(torch.randn(2, 3, 9, 7)).sum().backward()
    assert len(calls) == 2


@LOOKALIKES
def test_gradients_are_kept(lookalike):
    model = host(randomised(lookalike(), 0))
    model(torch.randn(2, 3, 9, 7)).sum().backward()
    before = sorted(p.grad.square().sum().item() for p in model[1].parameters())
    replace_attention(model)
    assert type(model[1]) in (EMAM, SCAM)
    assert sorted(p.grad.square().sum().item() for p in model[1].parameters()) == pytest.approx(before)
    assert all(p.grad.shape == p.shape for p in model[1].parameters())


def test_a_module_that_keeps_a_computed_map_is_replaced():
    old = EMA(32)
    old.last = old(torch.ones(1, 32, 4, 4))
    assert replace_attention(host(old)).swapped


@LOOKALIKES
def test_modes_dtypes_and_requires_grad_of_each_part_are_kept(lookalike):
    old = lookalike().train()
    parts = [part for part in old.modules() if list(part.parameters(recurse=False))]
    for i, part in enumerate(parts):
        part.training = i % 2 == 0
        part.requires_grad_(i % 3 == 0)
        for parameter in part.parameters():
            parameter.shrinks = i
    parts[-1].to(torch.float64)  # running statistics or a small convolution kept precise, as in some mixed precisions
    kept = sorted((p.shrinks, p.numel(), p.dtype, p.requires_grad) for p in old.parameters())
    modes = [part.training for part in parts]
    model = nn.Sequential(old)

    assert len(replace_attention(model).swapped) == 1

    new = model[0]
    assert sorted((p.shrinks, p.numel(), p.dtype, p.requires_grad) for p in new.parameters()) == kept
    assert sorted(part.training for part in new.modules() if list(part.parameters(recurse=False))) == sorted(modes)
    assert new.training


@LOOKALIKES
def test_buffers_that_the_host_added_are_kept(lookalike):
    old = lookalike()
    old.register_buffer("calls", torch.tensor(3))
    old.register_buffer("scratch", torch.tensor(4.0), persistent=False)
    model = host(old)
    replace_attention(model)
    assert type(model[1]) in (EMAM, SCAM) and model[1].calls is old.calls and model[1].scratch is old.scratch
    assert "1.calls" in model.state_dict() and "1.scratch" not in model.state_dict()


def test_what_a_new_layer_could_not_have_is_left():
    wrapped, buffered = EMA(32), CBAM(32)
    wrapped.forward = wrapped.forward
    buffered.ChannelGate.register_buffer("calls", torch.tensor(3))
    report = replace_attention(host(wrapped, buffered))
    assert [left.reason for left in report.left] == [
        "has a forward of its own that would be lost",
        "has buffers inside that would be lost",
    ]


@pytest.mark.parametrize("lookalike", [CBAM, CbamModule])
def test_statistics_shared_with_another_module_stay_shared(lookalike):
    old = lookalike(32)
    model = host(old)
    model.norm = next(module for module in old.modules() if isinstance(module, nn.BatchNorm2d))
    replace_attention(model)
    assert all(ours is theirs for ours, theirs in zip(model[1].spatial.bn.buffers(), model.norm.buffers(), strict=True))


def test_a_compiled_module_is_replaced():
    old = EMA(32)
    old.compile(backend="eager")
    model = host(old)
    replace_attention(model)
    assert isinstance(model[1], EMAM) and model[1]._compiled_call_impl is None
