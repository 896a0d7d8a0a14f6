"""State dicts: the names are the published EMA's; SCAM reads its own, the published CBAM's and timm's."""

import copy

import pytest
import torch
from timm.layers.cbam import CbamModule
from torch import nn

from panet_layers import EMAM, SCAM
from tests.layers.cases import SMALL, assert_same, randomised, run, tensors, with_backend

pytestmark = pytest.mark.usefixtures("by_hand_at_any_size")


def ema_state_dict(channels=16, groups=4):
    width = channels // groups
    shapes = {
        "conv1x1.weight": (width, width, 1, 1),
        "conv1x1.bias": (width,),
        "conv3x3.weight": (width, width, 3, 3),
        "conv3x3.bias": (width,),
        "gn.weight": (width,),
        "gn.bias": (width,),
    }
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def published_cbam_state_dict(channels=16, hidden=4):
    return {
        "ChannelGate.mlp.1.weight": torch.randn(hidden, channels),
        "ChannelGate.mlp.1.bias": torch.randn(hidden),
        "ChannelGate.mlp.3.weight": torch.randn(channels, hidden),
        "ChannelGate.mlp.3.bias": torch.randn(channels),
        "SpatialGate.spatial.conv.weight": torch.randn(1, 2, 7, 7),
        "SpatialGate.spatial.bn.weight": torch.randn(1),
        "SpatialGate.spatial.bn.bias": torch.randn(1),
        "SpatialGate.spatial.bn.running_mean": torch.randn(1),
        "SpatialGate.spatial.bn.running_var": torch.rand(1),
        "SpatialGate.spatial.bn.num_batches_tracked": torch.tensor(7),
    }


def published_cbam():
    return SCAM(16, 4, mlp_bias=True, spatial_norm="batch")


def timm_cbam_state_dict():
    return randomised(CbamModule(16, 1 / 4), 0).state_dict()


KINDS = {
    "ema": (lambda: EMAM(16, 4), ema_state_dict),
    "own": (published_cbam, lambda: randomised(published_cbam(), 3).state_dict()),
    "published cbam": (published_cbam, published_cbam_state_dict),
    "timm cbam": (lambda: SCAM(16, 4, spatial_norm="batch"), timm_cbam_state_dict),
}
every_kind = pytest.mark.parametrize(("build", "state_dict"), KINDS.values(), ids=KINDS)


def test_emam_has_the_published_names_and_shapes():
    expected = {name: value.shape for name, value in ema_state_dict().items()}
    assert {name: value.shape for name, value in EMAM(16, 4).state_dict().items()} == expected
    assert list(dict(EMAM(16, 4).named_parameters())) == list(expected)


def test_scam_names():
    plain = ["channel.fc1.weight", "channel.fc2.weight", "spatial.conv.weight"]
    assert list(SCAM(16).state_dict()) == plain
    biases = {"channel.fc1.bias", "channel.fc2.bias"}
    norm = {f"spatial.bn.{name}" for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}
    assert set(published_cbam().state_dict()) == {*plain, *biases, *norm}


@every_kind
def test_loads_strictly_and_leaves_the_callers_dict_alone(build, state_dict):
    given = state_dict()
    before = {name: value.clone() for name, value in given.items()}
    layer = build()
    result = layer.load_state_dict(given)
    assert not result.missing_keys and not result.unexpected_keys
    assert given.keys() == before.keys() and all(torch.equal(given[name], before[name]) for name in before)
    loaded = sorted(round(float(v.double().sum()), 4) for v in layer.state_dict().values())
    assert loaded == sorted(round(float(v.double().sum()), 4) for v in before.values())


@every_kind
def test_loads_under_a_prefix_and_by_assignment(build, state_dict):
    given = state_dict()
    alone = build()
    alone.load_state_dict(given)
    network = nn.ModuleDict({"stem": nn.Conv2d(3, 16, 1), "spatial": nn.Sequential(build(), build())})
    whole = {f"stem.{name}": value for name, value in network["stem"].state_dict().items()}
    whole |= {f"spatial.{i}.{name}": value for i in "01" for name, value in given.items()}
    for assign in (False, True):
        fresh = copy.deepcopy(network)
        fresh.load_state_dict(whole, assign=assign)
        for layer in fresh["spatial"]:
            assert_same(dict(layer.state_dict()), dict(alone.state_dict()), 0)


@every_kind
def test_a_missing_key_is_named(build, state_dict):
    for name in state_dict():
        given = state_dict()
        del given[name]
        if name.endswith("num_batches_tracked"):
            continue  # torch lets this one be missing in old checkpoints
        with pytest.raises(RuntimeError, match="Missing key"):
            build().load_state_dict(given)
        assert len(build().load_state_dict(given, strict=False).missing_keys) == 1


@every_kind
def test_an_unexpected_key_is_named(build, state_dict):
    for name in ("extra.weight", "extra"):
        with pytest.raises(RuntimeError, match=f"Unexpected key.*{name}"):
            build().load_state_dict(state_dict() | {name: torch.zeros(1)})


@every_kind
def test_a_misshapen_tensor_is_named(build, state_dict):
    for name, value in state_dict().items():
        if value.dim() < 2:
            continue
        with pytest.raises(RuntimeError, match="size mismatch"):
            build().load_state_dict(state_dict() | {name: torch.zeros(*value.shape[:-1], value.shape[-1] + 2)})


def test_a_state_dict_of_another_configuration_is_refused():
    with pytest.raises(RuntimeError, match="Unexpected key"):
        SCAM(16, 4).load_state_dict(published_cbam_state_dict())
    with pytest.raises(RuntimeError, match="Missing key"):
        published_cbam().load_state_dict(SCAM(16, 4).state_dict())
    with pytest.raises(RuntimeError, match="size mismatch"):
        EMAM(32, 4).load_state_dict(ema_state_dict())


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_round_trip_through_a_file(case, tmp_path):
    layer, other = case.layer(seed=0), case.layer(seed=1)
    torch.save(layer.state_dict(), tmp_path / "layer.pt")
    other.load_state_dict(torch.load(tmp_path / "layer.pt", weights_only=True))
    x, grad = tensors(case)
    assert_same(run(with_backend(other, "collapsed"), x, grad), run(with_backend(layer, "collapsed"), x, grad), 0)
