"""insert_attention puts layers where it is asked to and changes nothing else; remove_attention restores the model."""

import copy
from collections import OrderedDict, defaultdict

import pytest
import timm
import torch
from timm.layers import SqueezeExcite
from torch import nn

from panet_layers import EMAM, SCAM, remove_attention
from tests.insertion.small_hosts import Pair, Returns, X, create, insert_alone, inserted, resnet


@pytest.mark.parametrize(
    ("at", "names"),
    [
        ("layer4", ["layer4.0.inserted_attention.0"]),
        (["layer4", "act1"], ["act1.inserted_attention.0", "layer4.0.inserted_attention.0"]),
        ("layer[12]", ["layer1.0.inserted_attention.0", "layer2.0.inserted_attention.0"]),
        ("layer?.0.conv1", [f"layer{i}.0.conv1.inserted_attention.0" for i in (1, 2, 3, 4)]),
    ],
    ids=str,
)
def test_names_and_patterns(at, names):
    model = resnet()
    report = insert_alone(model, at, EMAM)
    assert inserted(model) == names
    assert len(report.rows) == len(names)


def test_the_layer_refines_the_named_modules_output():
    model = resnet()
    seen = {}
    model.layer2.register_forward_hook(lambda module, args, output: seen.update(before=output))
    plain = model(X)
    before = seen["before"]
    insert_alone(model, "layer2", EMAM)
    model(X)
    layer = model.layer2[-1].inserted_attention[0].layer
    assert torch.equal(seen["before"], layer(before)) and not torch.equal(model(X), plain)


def test_two_insertions_at_one_location_run_one_after_the_other():
    model = resnet()
    insert_alone(model, "layer2", EMAM)
    insert_alone(model, "layer2", SCAM)
    both = resnet()
    both.load_state_dict({k: v for k, v in model.state_dict().items() if "inserted" not in k})
    emam, scam = (r.layer for r in model.layer2[-1].inserted_attention)
    insert_alone(both, "layer2", lambda channels: nn.Sequential(emam, scam))
    assert torch.equal(model(X), both(X))


@pytest.mark.parametrize(
    ("form", "read", "map_of"),
    [
        (lambda x: x, "NCHW 16x16x12", lambda out: out),
        (lambda x: x.permute(0, 2, 3, 1), "NHWC 16x16x12", lambda out: out.permute(0, 3, 1, 2)),
        (lambda x: x.flatten(2).mT, "tokens 16x16x12", lambda out: out.mT.unflatten(2, (16, 12))),
        (
            lambda x: torch.cat([x[:, :, :3, 0].mT, x.flatten(2).mT], 1),
            "tokens behind 3 16x16x12",
            lambda out: out[:, 3:].mT.unflatten(2, (16, 12)),
        ),
        (lambda x: (x.mean(), x), "NCHW 16x16x12", lambda out: out[1]),
        (lambda x: [x, x.mean()], "NCHW 16x16x12", lambda out: out[0]),
        (lambda x: Pair(x, None), "NCHW 16x16x12", lambda out: out.map),
        (lambda x: {"sum": x.sum(), 7: x}, "NCHW 16x16x12", lambda out: out[7]),
        (lambda x: OrderedDict(out=x, aux=x.mean(1)), "NCHW 16x16x12", lambda out: out["out"]),
        (lambda x: defaultdict(list, map=x), "NCHW 16x16x12", lambda out: out["map"]),
    ],
    ids=["nchw", "nhwc", "tokens", "prefix", "tuple", "list", "namedtuple", "dict", "ordered dict", "default dict"],
)
def test_every_layout_and_kind_of_output_is_refined(form, read, map_of):
    model = Returns(form)
    plain = model(X)
    report = insert_alone(model, "stage", EMAM, example_input=X)
    refined = model(X)

    assert report.rows[0].map == read
    layer = model.stage.inserted_attention[0].layer
    torch.testing.assert_close(map_of(refined), layer(map_of(plain)))
    assert type(refined) is type(plain)
    if read.startswith("tokens behind"):
        assert torch.equal(refined[:, :3], plain[:, :3])


def test_tokens_of_an_image_size_other_than_the_dry_runs():
    model = Returns(lambda x: x.flatten(2).mT)
    insert_alone(model, "stage", EMAM, example_input=X)
    larger = torch.randn(1, 3, 128, 96)
    layer = model.stage.inserted_attention[0].layer
    torch.testing.assert_close(model(larger).mT.unflatten(2, (32, 24)), layer(model.conv(larger)))
    with pytest.raises(ValueError, match=r"31 tokens do not form a map of 16:12"):
        model.stage.inserted_attention[0](torch.zeros(1, 31, 16))


def test_hieras_tokens_are_brought_into_row_major_order():
    torch.manual_seed(0)
    model = timm.create_model("hiera_tiny_224", img_size=64, num_classes=2).eval()
    insert_alone(model, "stages", EMAM, example_input=torch.zeros(2, 3, 64, 64))
    refinement = model.blocks[2].inserted_attention[0]
    tokens = torch.randn(2, 64, 192)
    rolled = model.reroll(tokens, 2).permute(0, 3, 1, 2)
    torch.testing.assert_close(model.reroll(refinement(tokens), 2).permute(0, 3, 1, 2), refinement.layer(rolled))
    insert_alone(model, "blocks.1.norm1", EMAM, example_input=torch.zeros(2, 3, 64, 64))  # before the pooling
    order = model.blocks[1].norm1.inserted_attention[0].order
    assert torch.equal(order.view(16, 16, 1), model.reroll(torch.arange(256).view(1, -1, 1), 0)[0])


def test_containers_that_loop_over_their_children():
    """A Sequential, a ModuleDict and a block that loop over all their children compute what they did before."""

    class Iterates(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 16, 4, 4), nn.Conv2d(16, 16, 1)

        def forward(self, x):
            for child in self.children():
                x = child(x)
            return x

    class Dense(nn.ModuleDict):
        def forward(self, x):
            for layer in self.values():
                x = torch.cat([x, layer(x)], 1)
            return x

    model = nn.Sequential(Iterates(), Dense({"a": nn.Conv2d(16, 8, 1), "b": nn.Conv2d(24, 8, 1)}))
    plain = model(X)
    insert_alone(model, ["0", "1"], EMAM, example_input=X)
    first = model[0].inserted_attention[0].layer
    second = model[1]["b"].inserted_attention_of_parent[0].layer
    expected = first(model[0].second(model[0].first(X)))
    for conv in (model[1]["a"], model[1]["b"]):
        expected = torch.cat([expected, conv(expected)], 1)
    assert torch.equal(model(X), second(expected))
    remove_attention(model)
    assert torch.equal(model(X), plain)


def test_an_empty_container_holds_its_layer_itself():
    model = nn.Sequential(nn.Conv2d(3, 16, 4, 4), nn.Sequential())
    insert_alone(model, "1", EMAM, example_input=X)
    assert torch.equal(model(X), model[1].inserted_attention[0].layer(model[0](X)))
    remove_attention(model)
    assert torch.equal(model(X), model[0](X))


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext"])
def test_features_only_networks(name):
    model = create(name, features_only=True, out_indices=(1, 2))
    report = insert_alone(model, "stages", EMAM)
    assert len(report.rows) == 2
    plain = [feature.clone() for feature in model(X)]
    remove_attention(model)
    assert all(a.shape == b.shape and not torch.equal(a, b) for a, b in zip(plain, model(X)))


def test_a_timm_network_inside_another_module():
    model = nn.ModuleDict({"backbone": resnet()})
    model.forward = lambda x: model["backbone"](x)
    report = insert_alone(model, "stages", EMAM)
    assert [row.name for row in report.rows] == [
        f"backbone.{n}" for n in ("act1", "layer1", "layer2", "layer3", "layer4")
    ]


def test_a_star_ends_at_a_dot():
    model = resnet()
    assert [row.name for row in insert_alone(model, "layer[12].*", EMAM).rows] == ["layer1.0", "layer2.0"]
    with pytest.raises(ValueError, match=r"no module '\*conv1'"):
        insert_alone(nn.Sequential(resnet()), "*conv1", EMAM)


def test_a_pattern_matches_no_inserted_layer():
    model = resnet()
    insert_alone(model, "layer1.0", EMAM)
    names = [row.name for row in insert_alone(model, "layer1.0.*", SCAM).rows]
    assert names == [f"layer1.0.{name}" for name, _ in resnet().layer1[0].named_children()]


def test_a_module_with_two_names_is_refined_once_a_call():
    conv = nn.Conv2d(16, 16, 1)
    model = nn.Sequential(nn.Conv2d(3, 16, 4, 4), conv, conv)
    first = model[0](X)
    report = insert_alone(model, ["1", "2"], EMAM, example_input=X)
    layer = conv.inserted_attention[0].layer
    bare = nn.Conv2d(16, 16, 1)
    bare.load_state_dict({"weight": conv.weight, "bias": conv.bias})
    assert len(report.rows) == len(conv.inserted_attention) == 1
    assert torch.equal(model(X), layer(bare(layer(bare(first)))))


@pytest.mark.parametrize("in_place", [False, True])
def test_a_compiled_model(in_place):
    torch._dynamo.reset()
    model = resnet()
    if in_place:
        model.compile(backend="eager")
    else:
        model = torch.compile(model, backend="eager")
    plain = model(X)
    report = insert_alone(model, "stages", EMAM)
    assert report.rows[1].name == ("layer1" if in_place else "_orig_mod.layer1")
    refined = model(X)
    assert not torch.equal(refined, plain)
    torch.testing.assert_close(refined, (model if in_place else model._orig_mod).forward(X))
    remove_attention(model)
    assert torch.equal(model(X), plain)


def test_compiled_modules_inside_a_model():
    torch._dynamo.reset()
    convs = nn.Conv2d(3, 16, 4, 4), nn.Conv2d(16, 16, 1)
    model = nn.Sequential(*(torch.compile(conv, backend="eager") for conv in convs), nn.ReLU())
    plain = model(X)
    insert_alone(model, ["0", "1"], EMAM, example_input=X)
    assert inserted(model) == [f"{i}._orig_mod.inserted_attention.0" for i in range(2)]
    torch.testing.assert_close(model(X), convs[1](convs[0](X)).relu())
    assert not torch.equal(model(X), plain)
    remove_attention(model)
    assert torch.equal(model(X), plain)


def test_a_wrapper_that_forwards_attributes_to_the_module_inside():
    class Forwards(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def __getattr__(self, name):
            try:
                return super().__getattr__(name)
            except AttributeError:
                return getattr(super().__getattr__("inner"), name)

        def forward(self, x):
            return -self.inner(x)

    model = nn.Sequential(Forwards(nn.Conv2d(3, 16, 4, 4)))
    plain = model(X)
    insert_alone(model, "0.inner", EMAM, example_input=X)
    insert_alone(model, "0", EMAM, example_input=X)
    assert inserted(model) == ["0.inner.inserted_attention.0", "0.inserted_attention.0"]
    remove_attention(model)
    assert torch.equal(model(X), plain)


def test_a_traced_models_container_that_is_not_called_is_refused():
    model = torch.fx.symbolic_trace(nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 1))))
    with pytest.raises(ValueError, match=r"'0' \(Module\) was not called"):
        insert_alone(model, "0", EMAM, example_input=X)
    insert_alone(model, "0.0", EMAM, example_input=X)
    assert inserted(model) == ["0.0.inserted_attention.0"]


def test_layers_inserted_inside_inference_mode_can_be_trained():
    model = resnet()
    with torch.inference_mode():
        insert_alone(model, "layer3", EMAM)
    model.train()(X).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_parametrised_modules():
    model = resnet()
    nn.utils.parametrizations.weight_norm(model.layer2[0].conv1)
    insert_alone(model, "layer2.0.conv[12]", EMAM)
    assert len(inserted(model)) == 2
    copy.deepcopy(model).train()(X).sum().backward()


def test_a_layer_of_another_package_may_be_inserted():
    model = resnet()
    insert_alone(model, "layer3", SqueezeExcite)
    assert isinstance(model.layer3[-1].inserted_attention[0].layer, SqueezeExcite)


def test_removal_restores_the_plain_model():
    model = resnet()
    before = copy.deepcopy(model)
    insert_alone(model, "stages", EMAM)
    insert_alone(model, "layer1.0", SCAM)
    remove_attention(model)
    assert [name for name, _ in model.named_modules()] == [name for name, _ in before.named_modules()]
    assert all(not module._forward_hooks for module in model.modules())
    assert torch.equal(model(X), before(X))
    remove_attention(model)  # nothing to do


def test_other_hooks_modes_and_statistics_do_not_change():
    model = resnet().train()
    model.layer1.eval()
    calls = []
    model.layer4.register_forward_hook(lambda *_: calls.append(1))
    statistics = {k: v.clone() for k, v in model.state_dict().items()}
    insert_alone(model, "layer4", EMAM)
    remove_attention(model)
    assert model.training and not model.layer1.training
    assert all(torch.equal(v, statistics[k]) for k, v in model.state_dict().items())
    calls.clear()
    model(X)
    assert calls == [1]


def test_new_parameters_have_the_models_dtype_and_device():
    model = resnet().to(torch.bfloat16).train()
    insert_alone(model, "layer4", EMAM)
    layer = model.layer4[-1].inserted_attention[0].layer
    assert {p.dtype for p in layer.parameters()} == {torch.bfloat16} and layer.training
    meta = resnet().to("meta")
    insert_alone(meta, "layer4", EMAM)
    assert {p.device.type for p in meta.parameters()} == {"meta"}


def test_the_users_own_children_stay():
    model = Returns(lambda x: x)
    model.stage.inserted_attention_map = nn.Conv2d(1, 1, 1)
    insert_alone(model, "stage", EMAM, example_input=X)
    remove_attention(model)
    assert list(model.stage._modules) == ["inserted_attention_map"]
