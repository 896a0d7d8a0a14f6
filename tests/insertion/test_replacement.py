"""replace_attention: look-alikes become this package's layers, with the same weights and outputs."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from timm.layers.cbam import CbamModule, LightCbamModule
from torch import nn
from torch.nn.utils import prune

from panet_layers import EMAM, SCAM, replace_attention
from tests.insertion.lookalikes import CBAM, EMA, SpatialFirst, TopHeavyEMA, host
from tests.insertion.small_hosts import insert_alone, resnet
from tests.layers.cases import EXACT, assert_same, randomised

GOLDEN = Path(__file__).parents[1] / "layers/golden"


def outputs(model, training):
    x = torch.randn(3, 3, 11, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return {"output": model.train(training)(x).detach(), **{k: v.clone() for k, v in model.named_buffers()}}


@pytest.mark.parametrize("lookalikes", [1, 2])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(
    ("lookalike", "ours"),
    [
        (lambda: EMA(32, factor=4), EMAM),
        (lambda: CBAM(32, reduction=8), SCAM),
        (lambda: CbamModule(32, rd_ratio=1 / 8), SCAM),
        (lambda: CbamModule(32, rd_channels=5, mlp_bias=True, spatial_kernel_size=3), SCAM),
    ],
    ids=["ema", "cbam", "timm", "timm-odd"],
)
def test_swapped_with_equal_outputs(lookalike, ours, training, lookalikes):
    model = randomised(host(*(lookalike() for _ in range(lookalikes))).double(), 0)
    names = [str(i + 1) for i in range(lookalikes)]
    expected = outputs(copy.deepcopy(model), training)

    report = replace_attention(model)

    assert [swap.name for swap in report.swapped] == names and not report.left
    assert [type(model.get_submodule(name)) for name in names] == [ours] * lookalikes
    actual = outputs(model, training)
    assert_same({"output": actual["output"]}, {"output": expected["output"]})
    statistics = [v for k, v in expected.items() if "running" in k]
    for ours_after, theirs_after in zip([v for k, v in actual.items() if "running" in k], statistics, strict=True):
        assert (ours_after - theirs_after).abs().max() < EXACT
    assert "swapped" in str(report) and names[0] in str(report)


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.safetensors")), ids=lambda path: path.stem)
def test_the_lookalikes_are_the_published_modules(path):
    with safe_open(path, "pt") as file:
        stored = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
        kind = file.metadata()

    channels = stored["x"].shape[1]
    module = EMA(channels, int(kind["groups"])) if kind["kind"] == "emam" else CBAM(channels, int(kind["reduction"]))
    module.double().load_state_dict({k.removeprefix("param."): v for k, v in stored.items() if k.startswith("param.")})
    out = module.train(kind["mode"] == "train")(stored["x"])
    assert_same({"output": out.detach()}, {"output": stored["output"]})


def test_a_network_of_timm_computes_the_same():
    model = randomised(resnet(block_args={"attn_layer": "cbam"}).double(), 0)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    expected = model.eval()(x)
    count = sum(isinstance(module, CbamModule) for module in model.modules())

    report = replace_attention(model)

    assert count and len(report.swapped) == count and not report.left
    assert not any(isinstance(module, CbamModule) for module in model.modules())
    assert_same({"output": model(x)}, {"output": expected})


def test_modules_that_compute_something_else_are_left_and_listed():
    others = TopHeavyEMA(32), SpatialFirst(32, reduction=8), LightCbamModule(32)
    model = host(*others)

    report = replace_attention(model)

    assert not report.swapped
    assert [(left.name, left.was) for left in report.left] == [
        ("1", "TopHeavyEMA"),
        ("2", "SpatialFirst"),
        ("3", "LightCbamModule"),
    ]
    assert "computes something else" in report.left[0].reason
    assert list(model[1:4]) == list(others)


def test_a_module_that_only_has_the_name_is_listed():
    class CBAMBlock(nn.Conv2d):
        """A convolution that is called like a CBAM."""

    report = replace_attention(host(CBAMBlock(32, 32, 1)))
    assert [left.was for left in report.left] == ["CBAMBlock"]


REGISTER = [
    *(nn.Module.register_forward_hook, nn.Module.register_forward_pre_hook),
    *(nn.Module.register_full_backward_hook, nn.Module.register_full_backward_pre_hook),
    *(nn.Module.register_state_dict_post_hook, nn.Module.register_state_dict_pre_hook),
    *(nn.Module.register_load_state_dict_pre_hook, nn.Module.register_load_state_dict_post_hook),
]


@pytest.mark.parametrize("register", REGISTER, ids=lambda register: register.__name__)
@pytest.mark.parametrize("part", [lambda ema: ema, lambda ema: ema.gn])
def test_a_module_with_hooks_is_left(register, part):
    ema = EMA(32)
    register(part(ema), lambda *_: None)
    report = replace_attention(host(ema))
    assert "hooks" in report.left[0].reason and not report.swapped


def test_the_model_itself_is_left():
    report = replace_attention(EMA(32))
    assert "the model itself" in report.left[0].reason


def test_a_shared_module_is_replaced_under_every_name():
    ema = EMA(32)
    model = host(ema, nn.Sequential(ema))
    report = replace_attention(model)
    assert len(report.swapped) == 1 and model[1] is model[2][0] and isinstance(model[1], EMAM)


def test_our_own_layers_are_not_replaced():
    report = replace_attention(host(EMAM(32), SCAM(32)))
    assert report == ((), ()) and "nothing" in str(report)


@pytest.mark.parametrize(
    "lookalike", [lambda: EMA(32), lambda: CBAM(32), lambda: CbamModule(32)], ids=["ema", "cbam", "timm"]
)
def test_state_of_the_old_module_is_kept(lookalike):
    old = lookalike().to(torch.bfloat16).eval()
    for parameter in list(old.parameters())[:1]:
        parameter.requires_grad_(False)
    momentum = next((m.momentum for m in old.modules() if isinstance(m, nn.BatchNorm2d)), None)
    model = nn.Sequential(old)

    replace_attention(model)

    new = model[0]
    assert type(new) in (EMAM, SCAM) and not new.training
    assert {p.dtype for p in new.parameters()} == {torch.bfloat16}
    assert sorted(p.requires_grad for p in new.parameters()) == sorted(p.requires_grad for p in old.parameters())
    assert momentum is None or new.spatial.bn.momentum == momentum


def test_the_old_checkpoint_loads_into_the_new_model():
    old = host(EMA(32), CBAM(32), CbamModule(32))
    model = copy.deepcopy(old)
    replace_attention(model)
    model.load_state_dict(old.state_dict())


class Residual(nn.Module):
    """A block around a layer."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return x + self.layer(x)


class BottleneckCBAM(Residual):
    pass


def test_a_lookalike_inside_a_block_is_found():
    model = host(Residual(CBAM(32)), BottleneckCBAM(EMA(32)), nn.Sequential(nn.ReLU(), CbamModule(32)))
    report = replace_attention(model)
    assert [swap.name for swap in report.swapped] == ["1.layer", "2.layer", "3.1"] and not report.left


def test_a_lookalike_with_all_of_the_models_parameters_is_replaced():
    model = nn.ModuleDict({"net": nn.Sequential(nn.ReLU(), CBAM(32))})
    assert [swap.name for swap in replace_attention(model).swapped] == ["net.1"]


def test_an_inserted_lookalike_is_replaced():
    model = host()
    x = torch.randn(2, 3, 11, 9, dtype=torch.float64)
    insert_alone(model, "0", CbamModule, example_input=x.float())
    model.double().eval()
    expected = model(x)
    assert [swap.was for swap in replace_attention(model).swapped] == ["CbamModule"]
    assert_same({"output": model(x)}, {"output": expected})


def test_a_module_under_two_names_of_one_parent_is_replaced_under_both():
    cbam = CBAM(32)
    model = host(cbam, cbam)
    replace_attention(model)
    assert isinstance(model[1], SCAM) and model[1] is model[2]


def test_a_frozen_normalisation_stays_frozen():
    model = host(CBAM(32)).train()
    model[1].SpatialGate.spatial.bn.eval()
    replace_attention(model)
    assert model[1].training and not model[1].spatial.bn.training


def test_hooks_inside_and_pruned_weights_are_left():
    hooked, pruned = CBAM(32), CBAM(32)
    hooked.ChannelGate.register_forward_hook(lambda *_: None)
    prune.l1_unstructured(pruned.ChannelGate.mlp[1], "weight", 0.5)
    report = replace_attention(host(hooked, pruned))
    assert [left.name for left in report.left] == ["1", "2"]
    assert all("hooks" in left.reason for left in report.left)


def test_modules_whose_shared_weights_would_be_separated_are_left():
    one, other, alone = CbamModule(32), CbamModule(32), CbamModule(32)
    other.channel.fc1, other.channel.fc2 = one.channel.fc1, one.channel.fc2
    report = replace_attention(host(one, other, nn.Sequential(alone, alone)))
    assert [left.name for left in report.left] == ["1", "2"] and "shares weights" in report.left[0].reason
    assert [swap.name for swap in report.swapped] == ["3.0"]


def test_shared_weights_that_stay_shared_are_replaced():
    model = host(CBAM(32), CBAM(32), EMA(32), EMA(32))
    model[2].ChannelGate.mlp[1].weight = model[1].ChannelGate.mlp[1].weight
    model[4].conv3x3 = model[3].conv3x3
    assert len(replace_attention(model).swapped) == 4
    assert model[1].channel.fc1.weight is model[2].channel.fc1.weight and model[3].conv3x3 is model[4].conv3x3


def test_a_cbam_without_a_max_path_is_left_and_the_reason_named():
    """As ultralytics' is."""

    class Channel(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.fc = nn.Conv2d(channels, channels, 1)

        def forward(self, x):
            return x * self.fc(x.mean((2, 3), keepdim=True)).sigmoid()

    class Spatial(nn.Module):
        def __init__(self):
            super().__init__()
            self.cv1 = nn.Conv2d(2, 1, 7, padding=3, bias=False)

        def forward(self, x):
            return x * self.cv1(torch.stack([x.mean(1), x.amax(1)], 1)).sigmoid()

    report = replace_attention(host(nn.Sequential(Channel(32), Spatial()), Channel(32), CBAM(32)))
    assert [row.name for row in report.left] == ["1"] and "no max path in its channel attention" in str(report)
    assert [swap.name for swap in report.swapped] == ["3"]
