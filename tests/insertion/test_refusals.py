"""insert_attention refuses what it can't refine: its error names the module, and the model does not change."""

from functools import partial

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel

from panet_layers import EMAM, insert_attention, remove_attention, replace_attention
from panet_layers.insertion.layouts import Image, Layout, read_layout
from panet_layers.insertion.refinement import attach
from tests.insertion.small_hosts import Returns, X, inserted, resnet


@pytest.mark.parametrize(
    ("model", "at", "layer", "options", "message"),
    [
        (resnet, "layer5", EMAM, {}, r"no module 'layer5'; similar names are layer"),
        (resnet, [], EMAM, {}, r"at must be a module's name, a pattern, or several of them, got \[\]"),
        (resnet, "fc", EMAM, {}, r"module 'fc' \(Linear\) returned \(2, 3\) for .*; it must return one feature map"),
        (resnet, "layer1", partial(EMAM, groups=7), {}, r"'layer1', a map of 32 channels: groups=7 does not divide"),
        (resnet, "layer1", lambda c: None, {}, r"layer\(32\) must return an nn.Module, got None"),
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
            lambda: Returns(lambda x: x.flatten(1)),
            "stage",
            EMAM,
            {"example_input": X},
            r"'stage' \(Stage\) returned \(2, 3072\)",
        ),
        (
            lambda: Returns(lambda x: {1: [x]}),
            "stage",
            EMAM,
            {"example_input": X},
            r"'stage' \(Stage\) returned \{1: \{0: ",
        ),
        (resnet, "layer1", EMAM(32), {}, r"give its class, not EMAM\("),
        (resnet, "layer1", lambda c: nn.Conv2d(c, c, 3), {}, r"Conv2d returned \(2, 32, 38, 38\)"),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 8, 8, 8)),
            "0",
            EMAM,
            {"example_input": torch.zeros(2, 3, 64, 64)},
            r"8x8x8 could be \(B, C, H, W\) or \(B, H, W, C\)",
        ),
    ],
)
def test_errors_name_the_module_and_change_nothing(model, at, layer, options, message):
    model = model()
    before = [name for name, _ in model.named_modules()]
    with pytest.raises(ValueError, match=message):
        insert_attention(model, at, layer, **options)
    assert [name for name, _ in model.named_modules()] == before
    assert all(not module._forward_hooks for module in model.modules())


def test_a_module_that_is_not_called_is_refused():
    model = Returns(lambda x: x)
    model.spare = nn.Conv2d(3, 3, 1)
    with pytest.raises(ValueError, match=r"'spare' \(Conv2d\) was not called"):
        insert_attention(model, "spare", EMAM, example_input=X)


def test_a_module_that_returns_different_maps_is_refused():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.pool = nn.AvgPool2d(2)

        def forward(self, x):
            return self.pool(self.pool(x))

    with pytest.raises(ValueError, match=r"'pool' \(AvgPool2d\) returned \(2, 3, 32, 24\), then \(2, 3, 16, 12\)"):
        insert_attention(Twice(), "pool", partial(EMAM, groups=1), example_input=X)


def test_nothing_is_inserted_where_one_location_is_refused():
    model = resnet()
    with pytest.raises(ValueError, match="fc"):
        insert_attention(model, ["layer1", "fc"], EMAM)
    assert not inserted(model)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_torchscript_is_refused():
    first, second = (torch.jit.trace(nn.Conv2d(16, 16, 1), torch.zeros(1, 16, 4, 4)) for _ in range(2))
    model = nn.Sequential(nn.Conv2d(3, 16, 4, 4), first, nn.Sequential(second))
    for at in ("1", "2"):
        with pytest.raises(ValueError, match=rf"'{at}' \(\w+\) is TorchScript, which takes no layer"):
            insert_attention(model, ["0", at], EMAM, example_input=X)
    insert_attention(model, "0", EMAM, example_input=X)
    remove_attention(model)
    assert not inserted(model)


def test_a_module_that_takes_no_hook_leaves_the_others_unchanged(monkeypatch):
    model = resnet()
    insert_attention(model, "layer1", EMAM)
    before = list(model.state_dict())

    def refuse(hook):
        raise RuntimeError("no hooks here")

    monkeypatch.setattr(model.fc, "register_forward_hook", refuse)
    with pytest.raises(RuntimeError, match="no hooks here"):
        attach([(module, nn.Identity()) for module in (model.layer1[-1], model.act1, model.fc)])
    assert list(model.state_dict()) == before
    assert not model.act1._forward_hooks and model.layer1[-1]._forward_hooks


def test_a_child_with_the_layers_name_is_refused_and_kept():
    model = Returns(lambda x: x)
    model.stage.inserted_attention = nn.Conv2d(1, 1, 1)
    with pytest.raises(ValueError, match=r"Stage has a child 'inserted_attention' of its own"):
        insert_attention(model, "stage", EMAM, example_input=X)
    assert not model.stage._forward_hooks


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


def test_a_container_that_ends_in_a_shared_module_is_refused():
    act = nn.ReLU()
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 3), act), nn.Sequential(nn.Conv2d(8, 8, 3), act))
    with pytest.raises(ValueError, match=r"'0' \(Sequential\) ends in ReLU, which is used elsewhere too"):
        insert_attention(model, "0", EMAM, example_input=X)


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


def test_containers_that_would_store_their_layers_in_one_module_are_refused():
    act = nn.ReLU()
    model = nn.Sequential(
        nn.Conv2d(3, 16, 4, 4), Residual(nn.Conv2d(16, 16, 1), act), Residual(nn.Conv2d(16, 16, 1), act)
    )
    with pytest.raises(ValueError, match=r"'1' \(Residual\) ends in ReLU, as '2' \(Residual\) does"):
        insert_attention(model, "1", EMAM, example_input=X)


def test_a_list_that_is_looped_over_and_ends_in_a_shared_module_is_refused():
    class LoopsOver(nn.Module):
        def __init__(self):
            super().__init__()
            act = nn.ReLU()
            self.a = nn.ModuleList([nn.Conv2d(3, 16, 4, 4), act])
            self.b = nn.ModuleList([nn.Conv2d(16, 16, 1), act])

        def forward(self, x):
            for layer in (*self.a, *self.b):
                x = layer(x)
            return x

    with pytest.raises(ValueError, match=r"'b' \(ModuleList\) ends in ReLU, which is used elsewhere too"):
        insert_attention(LoopsOver(), "b", EMAM, example_input=X)


def test_tokens_that_form_no_map_are_refused():
    model = Returns(lambda x: x.flatten(2).mT[:, :77])
    with pytest.raises(ValueError, match=r"\(2, 77, 16\)"):
        insert_attention(model, "stage", EMAM, example_input=torch.zeros(2, 3, 64, 64))


def test_tokens_of_other_proportions_are_refused():
    model = Returns(lambda x: x.flatten(2).mT)
    insert_attention(model, "stage", EMAM, example_input=torch.zeros(2, 3, 64, 128))
    with pytest.raises(ValueError, match=r"144 tokens do not form a map of 16:32, the example_input's proportions"):
        model(torch.zeros(2, 3, 48, 48))


def test_a_conversion_that_dropped_the_layer_is_an_error():
    model = Returns(lambda x: x)
    insert_attention(model, "stage", EMAM, example_input=X)
    del model.stage.inserted_attention
    with pytest.raises(RuntimeError, match=r"Stage has lost its inserted layer.*convert first, insert after"):
        model(X)


@pytest.mark.parametrize("at", [None, 3, [None], ["layer1", 2], ""])
def test_at_must_be_names(at):
    with pytest.raises(ValueError, match="at must be a module's name"):
        insert_attention(resnet(), at, EMAM)


@pytest.mark.parametrize("layer", [lambda c: nn.Flatten(), lambda c: nn.Conv2d(c, 2 * c, 1), lambda c: nn.LSTM(7, 7)])
def test_a_layer_that_does_not_keep_the_maps_shape_is_refused(layer):
    with pytest.raises(ValueError, match=r"the layer for 'layer4' does not refine a map of \(96, 5, 5\)"):
        insert_attention(resnet(), "layer4", layer)


@pytest.fixture
def process_group(tmp_path):
    """A process group of one process."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:.*NO_SHARD:UserWarning")
@pytest.mark.parametrize(
    ("wrap", "name"),
    [
        (DistributedDataParallel, "DistributedDataParallel"),
        (partial(FullyShardedDataParallel, device_id=torch.device("cpu")), "FullyShardedDataParallel"),
        (fully_shard, "FSDPModule"),
    ],
    ids=["ddp", "fsdp", "fsdp2"],
)
def test_models_that_are_already_wrapped_are_refused(wrap, name, process_group):
    model = nn.Sequential(nn.Conv2d(3, 16, 4, 4))
    insert_attention(model, "0", EMAM, example_input=X)
    outer = nn.Sequential(wrap(model))
    before = list(outer.state_dict())
    with pytest.raises(ValueError, match=rf"module '0' is a {name}.*insert first, wrap after"):
        insert_attention(outer, "0", EMAM, example_input=X)
    with pytest.raises(ValueError, match=rf"module '0' is a {name}.*replace first, wrap after"):
        replace_attention(outer)
    with pytest.raises(ValueError, match=rf"module '0' is a {name}.*remove first, wrap after"):
        remove_attention(outer)
    assert list(outer.state_dict()) == before


@pytest.mark.parametrize("change", [partial(insert_attention, at="0", layer=EMAM), remove_attention])
def test_anything_but_a_module_is_refused(change):
    with pytest.raises(TypeError, match=r"model must be an nn\.Module, got 'resnet18'"):
        change("resnet18")
