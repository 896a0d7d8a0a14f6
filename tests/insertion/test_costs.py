"""The costs that insert_attention's report and profile count."""

import copy
from functools import partial

import pytest
import timm
from torch import nn

from panet_layers import EMAM, SCAM, insert_attention, profile
from panet_layers.insertion.costs import cost
from tests.insertion.small_hosts import X, resnet


def test_the_report_counts():
    model = resnet()
    plain = sum(p.numel() for p in model.parameters())
    report = insert_attention(model, ["layer3", "layer4"], partial(SCAM, reduction=8))
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
    report = insert_attention(model, "layer4", SCAM)
    assert profile(model).total.parameters == native.total.parameters + report.total.parameters
    assert str(profile(nn.Conv2d(3, 3, 1), X)).count("\n") == 1


def test_a_layer_that_is_called_twice_costs_twice_the_macs_and_memory():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1))
    model.append(model[1])
    once = insert_attention(copy.deepcopy(model), "0", EMAM, example_input=X).total
    twice = insert_attention(model, "1", EMAM, example_input=X).total
    assert twice == once.times(2) == profile(model, X).total and twice.parameters == once.parameters


def test_a_backend_that_cannot_run_on_the_models_present_device():
    insert_attention(resnet(), "layer4", partial(EMAM, backend="triton"))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_activation_bytes_count_the_input_not_the_parameters(device):
    layer = nn.Conv2d(16, 16, 3, padding=1, device=device)
    assert cost(layer, (16, 8, 6)).activation_bytes == 4 * 16 * 8 * 6
