"""insert_attention on any model: where layers go, what stays, what the model can still do, what is refused."""

import copy
import io
import pickle
from collections import OrderedDict, namedtuple
from functools import partial

import pytest
import timm
import torch
from cases import EXACT
from hypothesis import given
from hypothesis import strategies as st
from timm.layers import SqueezeExcite
from torch import nn
from torch.utils.checkpoint import checkpoint

from panet_layers import EMAM, SCAM, insert_attention, profile, remove_attention
from panet_layers.insertion.layouts import Image, Layout, read_layout
from panet_layers.insertion.refinement import Refinement

X = torch.randn(2, 3, 64, 48, generator=torch.Generator().manual_seed(1))


def resnet(**options):
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=3, **options).eval()


def inserted(model):
    return [name for name, module in model.named_modules() if isinstance(module, Refinement)]


class Gives(nn.Module):
    """A network of one convolution, `stage`, which gives what `form` makes of its map."""

    def __init__(self, form):
        super().__init__()
        self.conv, self.stage, self.form = nn.Conv2d(3, 16, 4, 4), Stage(form), form

    def forward(self, x):
        return self.stage(self.conv(x))


class Stage(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.form = form

    def forward(self, x):
        return self.form(x)


Pair = namedtuple("Pair", "map other")


# --- where


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
    report = insert_attention(model, at, EMAM)
    assert inserted(model) == names
    assert len(report.rows) == len(names)


def test_the_layer_refines_the_named_modules_output():
    model = resnet()
    seen = {}
    model.layer2.register_forward_hook(lambda module, args, output: seen.update(before=output))
    plain = model(X)
    before = seen["before"]
    insert_attention(model, "layer2", EMAM)
    model(X)
    layer = model.layer2[-1].inserted_attention[0].layer
    assert torch.equal(seen["before"], layer(before)) and not torch.equal(model(X), plain)


def test_two_insertions_follow_each_other():
    model = resnet()
    insert_attention(model, "layer2", EMAM)
    insert_attention(model, "layer2", SCAM)
    both = resnet()
    both.load_state_dict({k: v for k, v in model.state_dict().items() if "inserted" not in k})
    emam, scam = (r.layer for r in model.layer2[-1].inserted_attention)
    insert_attention(both, "layer2", lambda channels: nn.Sequential(emam, scam))
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
    ],
    ids=["nchw", "nhwc", "tokens", "prefix", "tuple", "list", "namedtuple", "dict", "ordered dict"],
)
def test_layouts(form, read, map_of):
    model = Gives(form)
    plain = model(X)
    report = insert_attention(model, "stage", EMAM, example_input=X)
    refined = model(X)

    assert report.rows[0].map == read
    layer = model.stage.inserted_attention[0].layer
    torch.testing.assert_close(map_of(refined), layer(map_of(plain)))
    assert type(refined) is type(plain)
    if read.startswith("tokens behind"):
        assert torch.equal(refined[:, :3], plain[:, :3])


def test_tokens_of_another_size_than_the_dry_runs():
    model = Gives(lambda x: x.flatten(2).mT)
    insert_attention(model, "stage", EMAM, example_input=X)
    larger = torch.randn(1, 3, 128, 96)
    layer = model.stage.inserted_attention[0].layer
    torch.testing.assert_close(model(larger).mT.unflatten(2, (32, 24)), layer(model.conv(larger)))
    with pytest.raises(ValueError, match=r"31 tokens are no map in the proportion 16:12"):
        model.stage.inserted_attention[0](torch.zeros(1, 31, 16))


def test_hieras_tokens_are_brought_into_rows():
    torch.manual_seed(0)
    model = timm.create_model("hiera_tiny_224", img_size=64, num_classes=2).eval()
    insert_attention(model, "stages", EMAM, example_input=torch.zeros(2, 3, 64, 64))
    refinement = model.blocks[2].inserted_attention[0]
    tokens = torch.randn(2, 64, 192)
    rolled = model.reroll(tokens, 2).permute(0, 3, 1, 2)
    torch.testing.assert_close(model.reroll(refinement(tokens), 2).permute(0, 3, 1, 2), refinement.layer(rolled))
    insert_attention(model, "blocks.1.norm1", EMAM, example_input=torch.zeros(2, 3, 64, 64))  # before the pooling
    order = model.blocks[1].norm1.inserted_attention[0].order
    assert torch.equal(order.view(16, 16, 1), model.reroll(torch.arange(256).view(1, -1, 1), 0)[0])


def test_containers_that_run_over_their_children():
    """Sequential, ModuleList and blocks that iterate over all they hold go on doing what they did."""

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
    insert_attention(model, ["0", "1"], EMAM, example_input=X)
    first = model[0].inserted_attention[0].layer
    second = model[1]["b"].inserted_attention_of_parent[0].layer
    expected = first(model[0].second(model[0].first(X)))
    for conv in (model[1]["a"], model[1]["b"]):
        expected = torch.cat([expected, conv(expected)], 1)
    assert torch.equal(model(X), second(expected))
    remove_attention(model)
    assert torch.equal(model(X), plain)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext"])
def test_features_only_networks(name):
    model = timm.create_model(name, features_only=True, out_indices=(1, 2)).eval()
    report = insert_attention(model, "stages", EMAM)
    assert len(report.rows) == 2
    plain = [feature.clone() for feature in model(X)]
    remove_attention(model)
    assert all(a.shape == b.shape and not torch.equal(a, b) for a, b in zip(plain, model(X)))


def test_a_timm_network_inside_another_module():
    model = nn.ModuleDict({"backbone": resnet()})
    model.forward = lambda x: model["backbone"](x)
    report = insert_attention(model, "stages", EMAM)
    assert [row.name for row in report.rows] == [
        f"backbone.{n}" for n in ("act1", "layer1", "layer2", "layer3", "layer4")
    ]


def test_a_star_ends_at_a_dot():
    model = resnet()
    assert [row.name for row in insert_attention(model, "layer[12].*", EMAM).rows] == ["layer1.0", "layer2.0"]
    with pytest.raises(ValueError, match=r"no module '\*conv1'"):
        insert_attention(nn.Sequential(resnet()), "*conv1", EMAM)


def test_a_module_with_two_names_is_refined_once_a_call():
    conv = nn.Conv2d(16, 16, 1)
    model = nn.Sequential(nn.Conv2d(3, 16, 4, 4), conv, conv)
    first = model[0](X)
    report = insert_attention(model, ["1", "2"], EMAM, example_input=X)
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
    report = insert_attention(model, "stages", EMAM)
    assert report.rows[1].name == ("layer1" if in_place else "_orig_mod.layer1")
    refined = model(X)
    assert not torch.equal(refined, plain)
    torch.testing.assert_close(refined, (model if in_place else model._orig_mod).forward(X))
    remove_attention(model)
    assert torch.equal(model(X), plain)


def test_a_traced_models_container_is_not_run_over():
    model = torch.fx.symbolic_trace(nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 1))))
    with pytest.raises(ValueError, match=r"'0' \(Module\) was not called"):
        insert_attention(model, "0", EMAM, example_input=X)
    insert_attention(model, "0.0", EMAM, example_input=X)
    assert inserted(model) == ["0.0.inserted_attention.0"]


def test_inside_inference_mode_layers_can_still_be_trained():
    model = resnet()
    with torch.inference_mode():
        insert_attention(model, "layer3", EMAM)
    model.train()(X).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_parametrised_modules():
    model = resnet()
    nn.utils.parametrizations.weight_norm(model.layer2[0].conv1)
    insert_attention(model, "layer2.0.conv[12]", EMAM)
    assert len(inserted(model)) == 2
    copy.deepcopy(model).train()(X).sum().backward()


def test_any_layer_may_be_inserted():
    model = resnet()
    insert_attention(model, "layer3", SqueezeExcite)
    assert isinstance(model.layer3[-1].inserted_attention[0].layer, SqueezeExcite)


# --- what stays


def test_removal_gives_the_plain_model_back():
    model = resnet()
    before = copy.deepcopy(model)
    insert_attention(model, "stages", EMAM)
    insert_attention(model, "layer1.0", SCAM)
    remove_attention(model)
    assert [name for name, _ in model.named_modules()] == [name for name, _ in before.named_modules()]
    assert all(not module._forward_hooks for module in model.modules())
    assert torch.equal(model(X), before(X))
    remove_attention(model)  # nothing to do


def test_other_hooks_and_modes_are_left_alone():
    model = resnet().train()
    model.layer1.eval()
    calls = []
    model.layer4.register_forward_hook(lambda *_: calls.append(1))
    statistics = {k: v.clone() for k, v in model.state_dict().items()}
    insert_attention(model, "layer4", EMAM)
    remove_attention(model)
    assert model.training and not model.layer1.training
    assert all(torch.equal(v, statistics[k]) for k, v in model.state_dict().items())
    calls.clear()
    model(X)
    assert calls == [1]


def test_new_parameters_are_of_the_models_kind():
    model = resnet().to(torch.bfloat16).train()
    insert_attention(model, "layer4", EMAM)
    layer = model.layer4[-1].inserted_attention[0].layer
    assert {p.dtype for p in layer.parameters()} == {torch.bfloat16} and layer.training
    meta = resnet().to("meta")
    insert_attention(meta, "layer4", EMAM)
    assert {p.device.type for p in meta.parameters()} == {"meta"}


# --- what a model can still do


def test_copies_have_layers_of_their_own():
    model = resnet()
    insert_attention(model, "stages", EMAM)
    twin = copy.deepcopy(model)
    file = io.BytesIO(pickle.dumps(model))
    stored = pickle.load(file)
    assert torch.equal(twin(X), model(X)) and torch.equal(stored(X), model(X))
    with torch.no_grad():
        for key, p in twin.named_parameters():
            if "inserted_attention" in key:
                p.add_(1.0)
    assert not torch.equal(twin(X), model(X)) and torch.equal(stored(X), model(X))
    remove_attention(twin)
    assert inserted(model) and not inserted(twin)


def test_state_dict_round_trip():
    model, other = resnet(), resnet()
    insert_attention(model, "stages", EMAM)
    insert_attention(other, "stages", EMAM)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(X), model(X))


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_mambaout"])
def test_compiles_without_a_graph_break(name):
    torch._dynamo.reset()
    model = timm.create_model(name, num_classes=3).eval()
    insert_attention(model, "stages", EMAM)
    x = torch.randn(2, 3, 160, 160)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x))


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_exports(name):
    model = timm.create_model(name, num_classes=3).eval()
    insert_attention(model, "stages", EMAM)
    x = torch.randn(2, 3, 160, 160)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    x = torch.randn(5, 3, 160, 160)
    torch.testing.assert_close(program.module()(x), model(x))


def test_gradient_checkpointing_runs_the_layers():
    model = resnet().double().train()
    insert_attention(model, "stages", EMAM)
    x = X.double()
    model(x).sum().backward()
    expected = {k: p.grad.clone() for k, p in model.named_parameters()}
    model.zero_grad()
    model.set_grad_checkpointing()
    model(x).sum().backward()
    for key, p in model.named_parameters():
        assert (p.grad - expected[key]).abs().max() < EXACT, key
    model.zero_grad()
    checkpoint(model.layer1, model.maxpool(model.act1(model.bn1(model.conv1(x)))), use_reentrant=False).sum().backward()
    assert model.layer1[-1].inserted_attention[0].layer.conv1x1.weight.grad is not None


# --- what it costs


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
    assert [line.split()[0] for line in str(report).splitlines()] == ["place", "layer3", "layer4", "total"]


def test_profile_finds_native_and_inserted_layers():
    model = timm.create_model("test_resnet", block_args={"attn_layer": EMAM})
    native = profile(model)
    assert {row.layer for row in native.rows} == {"EMAM"} and all(row.name.endswith(".se") for row in native.rows)
    report = insert_attention(model, "layer4", SCAM)
    assert profile(model).total.parameters == native.total.parameters + report.total.parameters
    assert str(profile(nn.Conv2d(3, 3, 1), X)).count("\n") == 1


# --- what is refused


@pytest.mark.parametrize(
    ("model", "at", "layer", "options", "message"),
    [
        (resnet, "layer5", EMAM, {}, r"no module 'layer5'; near it are layer"),
        (resnet, [], EMAM, {}, r"at must be a module's name, a pattern, or several of them, got \[\]"),
        (resnet, "fc", EMAM, {}, r"module 'fc' \(Linear\) gave \(2, 3\)"),
        (resnet, "layer1", partial(EMAM, groups=7), {}, r"'layer1', a map of 32 channels: channels must be divisible"),
        (resnet, "layer1", lambda c: None, {}, r"layer\(32\) must be an nn.Module, got None"),
        (resnet, "layer1", EMAM, {"example_input": torch.zeros(2, 4, 64, 64)}, r"failed on the given example_input"),
        (
            resnet,
            "layer1",
            EMAM,
            {"example_input": torch.zeros(2, 4)},
            r"images of shape \(B, C, H, W\), got \[\(2, 4\)\]",
        ),
        (lambda: nn.Sequential(nn.Conv2d(3, 8, 1)), "0", EMAM, {}, r"example_input is needed"),
        (lambda: nn.Sequential(nn.Conv2d(3, 8, 1)), "stages", EMAM, {"example_input": X}, r"needs timm's feature_info"),
        (
            lambda: Gives(lambda x: x.flatten(1)),
            "stage",
            EMAM,
            {"example_input": X},
            r"'stage' \(Stage\) gave \(2, 3072\)",
        ),
        (lambda: Gives(lambda x: {1: [x]}), "stage", EMAM, {"example_input": X}, r"'stage' \(Stage\) gave \{1: \{0: "),
        (resnet, "layer1", EMAM(32), {}, r"give its class, not EMAM\("),
        (resnet, "layer1", lambda c: nn.Conv2d(c, c, 3), {}, r"Conv2d made \(2, 32, 38, 38\)"),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 8, 8, 8)),
            "0",
            EMAM,
            {"example_input": torch.zeros(2, 3, 64, 64)},
            r"8x8x8 could be \(B, C, H, W\) and \(B, H, W, C\)",
        ),
    ],
)
def test_errors_name_the_place_and_change_nothing(model, at, layer, options, message):
    model = model()
    before = [name for name, _ in model.named_modules()]
    with pytest.raises(ValueError, match=message):
        insert_attention(model, at, layer, **options)
    assert [name for name, _ in model.named_modules()] == before
    assert all(not module._forward_hooks for module in model.modules())


def test_a_module_that_is_not_called():
    model = Gives(lambda x: x)
    model.spare = nn.Conv2d(3, 3, 1)
    with pytest.raises(ValueError, match=r"'spare' \(Conv2d\) was not called"):
        insert_attention(model, "spare", EMAM, example_input=X)


def test_a_module_that_gives_different_maps():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.pool = nn.AvgPool2d(2)

        def forward(self, x):
            return self.pool(self.pool(x))

    with pytest.raises(ValueError, match=r"'pool' \(AvgPool2d\) gave \(2, 3, 32, 24\), then \(2, 3, 16, 12\)"):
        insert_attention(Twice(), "pool", partial(EMAM, groups=1), example_input=X)


def test_nothing_is_built_in_where_one_place_cannot_take_it():
    model = resnet()
    with pytest.raises(ValueError, match="fc"):
        insert_attention(model, ["layer1", "fc"], EMAM)
    assert not inserted(model)


@given(
    height=st.integers(2, 40),
    width=st.integers(2, 40),
    stride=st.integers(1, 32),
    channels=st.integers(3, 400),
    prefix=st.integers(0, 5),
    kind=st.sampled_from(["NCHW", "NHWC", "tokens"]),
)
def test_layouts_are_read_off_shapes(height, width, stride, channels, prefix, kind):
    shape = {
        "NCHW": (2, channels, height, width),
        "NHWC": (2, height, width, channels),
        "tokens": (2, prefix + height * width, channels),
    }[kind]
    expected = Layout(kind, channels, height, width, prefix if kind == "tokens" else 0)
    found = read_layout(shape, Image(2, height * stride, width * stride), channels, stride)
    assert expected in found
    assert len(found) == 1 or kind != "tokens"


# --- what a reviewer tried


def test_a_container_that_ends_in_a_shared_module_is_refused():
    act = nn.ReLU()
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 3), act), nn.Sequential(nn.Conv2d(8, 8, 3), act))
    with pytest.raises(ValueError, match=r"'0' \(Sequential\) ends in ReLU, which is called elsewhere too"):
        insert_attention(model, "0", EMAM, example_input=X)


def test_calls_are_counted():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1))
    model.append(model[1])
    once = insert_attention(copy.deepcopy(model), "0", EMAM, example_input=X).total
    twice = insert_attention(model, "1", EMAM, example_input=X).total
    assert twice == once.times(2) == profile(model, X).total and twice.parameters == once.parameters


def test_a_sequence_that_is_no_map_is_refused():
    model = Gives(lambda x: x.flatten(2).mT[:, :77])
    with pytest.raises(ValueError, match=r"\(2, 77, 16\)"):
        insert_attention(model, "stage", EMAM, example_input=torch.zeros(2, 3, 64, 64))


def test_tokens_of_other_proportions_are_refused():
    model = Gives(lambda x: x.flatten(2).mT)
    insert_attention(model, "stage", EMAM, example_input=torch.zeros(2, 3, 64, 128))
    with pytest.raises(ValueError, match=r"144 tokens are no map in the proportion 16:32, that of the example_input"):
        model(torch.zeros(2, 3, 48, 48))


def test_the_users_own_children_stay():
    model = Gives(lambda x: x)
    model.stage.inserted_attention_map = nn.Conv2d(1, 1, 1)
    insert_attention(model, "stage", EMAM, example_input=X)
    remove_attention(model)
    assert list(model.stage._modules) == ["inserted_attention_map"]


def test_a_conversion_that_drops_the_layer_is_told():
    model = Gives(lambda x: x)
    insert_attention(model, "stage", EMAM, example_input=X)
    del model.stage.inserted_attention
    with pytest.raises(RuntimeError, match=r"Stage has lost its inserted layer.*convert first, insert after"):
        model(X)


def test_a_backend_for_another_device_than_the_models_of_now():
    insert_attention(resnet(), "layer4", partial(EMAM, backend="triton"))


@pytest.mark.parametrize("at", [None, 3, [None], ["layer1", 2], ""])
def test_what_is_no_name(at):
    with pytest.raises(ValueError, match="at must be a module's name"):
        insert_attention(resnet(), at, EMAM)


@pytest.mark.parametrize("layer", [lambda c: nn.Flatten(), lambda c: nn.Conv2d(c, 2 * c, 1), lambda c: nn.LSTM(7, 7)])
def test_a_layer_that_is_none(layer):
    with pytest.raises(ValueError, match=r"the layer for 'layer4' does not refine a map of \(96, 5, 5\)"):
        insert_attention(resnet(), "layer4", layer)


def test_symbolic_tracing_calls_refinements():
    model = Gives(lambda x: x.flatten(2).mT)
    insert_attention(model, "stage", EMAM, example_input=X)
    graph = torch.fx.symbolic_trace(model)
    assert torch.equal(graph(X), model(X))


@pytest.mark.parametrize("name", ["conv1x1", "conv3x3"])
def test_an_adapter_in_a_convolutions_place_is_refused(name):
    class Adapter(nn.Module):
        def __init__(self, conv):
            super().__init__()
            self.weight, self.bias = conv.weight, conv.bias

    layer = EMAM(16)
    setattr(layer, name, Adapter(getattr(layer, name)))
    with pytest.raises(TypeError, match=r"EMAM reads its convolutions' weights.*got Adapter"):
        layer(torch.zeros(1, 16, 4, 4))
    scam = SCAM(16)
    scam.spatial.conv = Adapter(scam.spatial.conv)
    with pytest.raises(TypeError, match="got Adapter"):
        scam(torch.zeros(1, 16, 4, 4))
