"""The costs that insert_attention's report and profile count."""

import copy
import warnings
from functools import partial

import pytest
import timm
import torch
from timm.layers import SelectiveKernel
from torch import nn
from torch.nn.utils import prune

from panet_layers import EMAM, SCAM, insert_attention, profile
from panet_layers.insertion.costs import cost
from tests.insertion.lookalikes import EMA
from tests.insertion.small_hosts import X, insert_alone, resnet


def test_the_report_counts():
    model = resnet()
    plain = sum(p.numel() for p in model.parameters())
    report = insert_alone(model, ["layer3", "layer4"], partial(SCAM, reduction=8))
    assert report.total.parameters == sum(p.numel() for p in model.parameters()) - plain
    channels, height, width = 96, 5, 5  # layer4 of a 160x160 image
    row = report.rows[1]
    assert (row.name, row.map, row.layer) == ("layer4", f"NCHW {channels}x{height}x{width}", "SCAM")
    assert (
        row.cost.macs == 2 * 2 * channels * (channels // 8) + 2 * 49 * height * width
    )  # two maps through the MLP, 7x7
    assert row.cost.activation_bytes >= 4 * channels * height * width
    assert [line.split()[0] for line in str(report).splitlines()] == ["location", "layer3", "layer4", "total"]


def test_profile_finds_native_and_inserted_layers():
    model = timm.create_model("test_resnet", block_args={"attn_layer": EMAM})
    native = profile(model)
    assert {row.layer for row in native.rows} == {"EMAM"} and all(row.name.endswith(".se") for row in native.rows)
    report = insert_alone(model, "layer4", SCAM)
    assert profile(model).total.parameters == native.total.parameters + report.total.parameters
    assert str(profile(nn.Conv2d(3, 3, 1), X)).count("\n") == 1


def test_a_layer_that_is_called_twice_costs_twice_the_macs_and_memory():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1))
    model.append(model[1])
    once = insert_alone(copy.deepcopy(model), "0", EMAM, example_input=X).total
    twice = insert_alone(model, "1", EMAM, example_input=X).total
    assert twice == once.times(2) == profile(model, X).total and twice.parameters == once.parameters


def test_a_backend_that_cannot_run_on_the_models_present_device():
    insert_alone(resnet(), "layer4", partial(EMAM, backend="triton"))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_activation_bytes_count_the_input_not_the_parameters(device):
    layer = nn.Conv2d(16, 16, 3, padding=1, device=device)
    assert cost(layer, (16, 8, 6)).activation_bytes == 4 * 16 * 8 * 6


class Around(nn.Module):
    """A child module on a form of the input, or of a parameter, that shares its memory."""

    def __init__(self, child, before, after=lambda out, x: out):
        super().__init__()
        self.child, self.before, self.after = child, before, after
        self.weight = nn.Parameter(torch.ones(1, 32))

    def forward(self, x):
        return self.after(self.child(self.before(x, self.weight)), x)


class Scaled(nn.Module):
    """A child module on a view of a tensor that is no parameter."""

    def __init__(self):
        super().__init__()
        self.bn, self.child = nn.BatchNorm2d(32), nn.Identity()
        self.scale = torch.ones(1, 32, 1, 1, requires_grad=True)

    def forward(self, x):
        return self.bn(x) * self.child(self.scale.view(1, -1, 1, 1))


HANDS_ON_A_VIEW = {
    "published EMA": lambda: EMA(32),
    "timm's SK": lambda: SelectiveKernel(32),
    "norm over channels": lambda: Around(
        nn.LayerNorm(32), lambda x, _: x.permute(0, 2, 3, 1), lambda out, _: out.permute(0, 3, 1, 2)
    ),
    "part of the input": lambda: Around(nn.Conv2d(16, 32, 1), lambda x, _: x.chunk(2, 1)[0], lambda out, x: out + x),
    "view of a parameter": lambda: Around(
        nn.Sigmoid(), lambda _, weight: weight.view(1, -1, 1, 1), lambda gate, x: gate * x
    ),
    "view of another tensor": Scaled,
    "change in place": lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(32, 32, 1)),
    "change of a view in place": lambda: Around(nn.ReLU(inplace=True), lambda x, _: x.flatten(2), lambda _, x: x),
}


@pytest.mark.parametrize("name", HANDS_ON_A_VIEW)
def test_layers_whose_children_see_the_inputs_memory_are_counted(name):
    layer = HANDS_ON_A_VIEW[name]()
    model = nn.Sequential(nn.Conv2d(3, 32, 4, 4), nn.Conv2d(32, 4, 1))
    report = insert_alone(model, "0", lambda _: layer, example_input=X)
    assert profile(model, X).total == report.total
    assert all(p.requires_grad for p in layer.parameters())


class Remembering(nn.Module):
    """Keeps what it computed last, as some do to show it."""

    def __init__(self):
        super().__init__()
        self.gate, self.last = nn.Conv2d(32, 1, 1), {}

    def forward(self, x):
        self.last["gate"] = self.gate(x).sigmoid()
        return x * self.last["gate"]


def pruned(layer):
    prune.l1_unstructured(layer.conv1x1, "weight", 0.5)
    return layer


def weight_normed(layer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, not gone
        nn.utils.weight_norm(layer.conv3x3)
    return layer


def called(layer):
    layer(torch.ones(1, 32, 4, 4))
    return layer


@pytest.mark.parametrize(
    "built",
    [
        lambda: pruned(EMAM(32)),
        lambda: weight_normed(EMAM(32)),
        lambda: called(nn.utils.spectral_norm(nn.Conv2d(32, 32, 1))),
        lambda: called(Remembering()),
    ],
    ids=["pruned", "weight_norm", "spectral_norm", "remembering"],
)
def test_layers_that_hold_computed_tensors_are_counted(built):
    layer = built()
    held = [v for part in layer.modules() for v in vars(part).values() if isinstance(v, torch.Tensor)]
    model = nn.Sequential(nn.Conv2d(3, 32, 4, 4), nn.Conv2d(32, 4, 1))
    report = insert_alone(model, "0", lambda _: layer, example_input=X)
    assert report.total.macs > 0 and profile(model, X).total == report.total
    assert all(tensor.grad_fn is not None for tensor in held)
    assert model[0].inserted_attention[0].layer is layer


def test_the_published_ema_costs_what_emams_formulas_cost():
    published, ours = cost(EMA(32), (32, 16, 12)), cost(EMAM(32), (32, 16, 12))
    assert (published.parameters, published.macs) == (ours.parameters, ours.macs)


@pytest.mark.parametrize("start", ["identity", "layer"])
def test_a_layer_at_several_locations_has_a_row_with_its_share_for_each_and_its_parameters_in_the_first(start):
    model = nn.Sequential(nn.Conv2d(3, 16, 4, 4), nn.Conv2d(16, 16, 2, 2), nn.Conv2d(16, 2, 1))
    plain, layer = sum(p.numel() for p in model.parameters()), EMAM(16)
    report = insert_attention(model, ["0", "1"], lambda _: layer, example_input=X, start=start)
    shares = [None, None] if start == "layer" else [0.25, -0.5]
    for index, share in enumerate(shares):
        if share is not None:
            nn.init.constant_(model[index].inserted_attention[0].share, share)
    first, second = profile(model, X).rows
    assert [first.name, second.name] == [f"{index}.inserted_attention.0.layer" for index in (0, 1)]
    assert [first.map, second.map] == ["16x16x12", "16x8x6"] and [first.share, second.share] == shares
    alone = [cost(layer, shape) for shape in ((16, 16, 12), (16, 8, 6))]
    assert [first.cost.macs, second.cost.macs] == [each.macs for each in alone]
    added = sum(p.numel() for p in model.parameters()) - plain
    assert profile(model, X).total == report.total and report.total.parameters == added
    assert [row.cost.parameters for row in report.rows] == [first.cost.parameters, second.cost.parameters]
    assert second.cost.parameters == (0 if start == "layer" else 1)


def test_a_layer_that_the_model_calls_itself_too_has_a_row_for_that():
    model = nn.Sequential(nn.Conv2d(3, 16, 4, 4), EMAM(16), nn.Conv2d(16, 2, 1))
    insert_attention(model, "0", lambda _: model[1], example_input=X)
    nn.init.constant_(model[0].inserted_attention[0].share, 0.25)
    inserted, own = profile(model, X).rows
    assert (inserted.name, inserted.share) == ("0.inserted_attention.0.layer", 0.25)
    assert (own.name, own.share) == ("1", None) and own.cost.macs == inserted.cost.macs
    assert profile(model, X).total.parameters == sum(p.numel() for p in model[1].parameters()) + 1


def test_profile_of_what_is_no_module_is_refused():
    with pytest.raises(TypeError, match=r"model must be an nn\.Module, got None"):
        profile(None)
