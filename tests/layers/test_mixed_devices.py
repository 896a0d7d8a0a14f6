"""Tensors on two devices: one clear error, whatever the size and the backend; never a result of unwritten memory."""

import copy

import pytest
import torch

from panet_layers import ChannelAttention, SpatialAttention, functional
from panet_layers.models.graph_reasoning import NeighbourAggregation
from tests.layers.cases import SMALL, with_backend
from tests.layers.changed_parts import changed

SIZES = {"small": (2, 8, 5, 4), "large": (1, 8, 300, 300)}
BACKENDS = (None, "reference", "collapsed", "native", "triton")
ONE_DEVICE = "needs its input and parameters on one device.*input on {}.* on {}; a tensor on meta has no values"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_all_parameters_on_meta_or_the_input(case, backend, size):
    layer = with_backend(case.layer(dtype=torch.float32), backend)
    x = torch.ones(SIZES[size])
    for training in (True, False):
        with torch.set_grad_enabled(training):
            with pytest.raises(RuntimeError, match=ONE_DEVICE.format("cpu", "meta")):
                copy.deepcopy(layer).to("meta")(x)
            with pytest.raises(RuntimeError, match=ONE_DEVICE.format("meta", "cpu")):
                layer(x.to("meta"))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_one_tensor_on_meta(case, size):
    """As a checkpoint without it, loaded with assign=True, leaves it. The error names it."""
    x = torch.ones(SIZES[size])
    names = [name for name, tensor in case.layer().state_dict().items() if tensor.is_floating_point()]
    for name in names:
        layer = case.layer(dtype=torch.float32)
        part, _, kind = name.rpartition(".")
        part = layer.get_submodule(part)
        kept = part._parameters if kind in part._parameters else part._buffers
        meta = kept[kind].detach().to("meta")
        kept[kind] = torch.nn.Parameter(meta) if kept is part._parameters else meta
        with pytest.raises(RuntimeError, match=f"{'.'.join(name.split('.')[-2:])} on meta"):
            layer(x)


def test_functions_and_halves():
    x = torch.ones(2, 8, 5, 4)
    channel, spatial = ChannelAttention(8, 2, device="meta"), SpatialAttention(3, norm="batch", device="meta")
    with pytest.raises(RuntimeError, match=r"ChannelAttention needs.*fc1.weight on meta"):
        channel(x)
    with pytest.raises(RuntimeError, match=r"SpatialAttention needs.*conv.weight on meta"):
        spatial(x)
    spatial.conv.to_empty(device="cpu")
    with pytest.raises(RuntimeError, match=r"SpatialAttention needs.*bn.weight on meta"):
        spatial(x)
    with pytest.raises(RuntimeError, match=r"ChannelAttention needs.*fc1.weight on meta"):
        functional.channel_attention(x, channel.fc1.weight, channel.fc2.weight)


def test_a_called_part_on_meta():
    """Parts with hooks are called, so that hooks which load weights, as offloading has them, can run before."""
    layer = SMALL[0].layer(dtype=torch.float32)
    x = torch.ones(2, 8, 5, 4)
    expected = layer(x)
    weights = {name: p.detach().clone() for name, p in layer.conv3x3.named_parameters()}

    def load(part, args):
        part.load_state_dict(weights, assign=True)

    layer.conv3x3.to("meta")
    layer.conv3x3.register_forward_hook(lambda *_: None)
    with pytest.raises(RuntimeError, match=r"EMAM.conv3x3, .*on meta"):
        layer(x)
    layer.conv3x3.register_forward_pre_hook(load)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("change", ["pruned", "old weight norm", "forward pre-hook"])
def test_a_part_whose_hook_loads_nothing(change, size):
    """Pruning and the old weight normalisation are pre-hooks too: they compute, on meta."""
    for kind, part in (("emam", "conv3x3"), ("scam", "spatial.conv")):
        layer = changed({"emam": SMALL[0], "scam": SMALL[2]}[kind].layer(), kind, part, change).float()
        layer.get_submodule(part).to("meta")
        with pytest.raises(RuntimeError, match=rf"{part.split('.')[-1]}, .*parameters on meta and its input on cpu"):
            layer(torch.ones(SIZES[size]))


def test_a_called_part_elsewhere_than_the_input():
    layer = SMALL[0].layer(dtype=torch.float32)
    layer.gn.register_forward_hook(lambda *_: None)
    with pytest.raises(RuntimeError, match=r"EMAM.*parameters on cpu and its input on meta"):
        layer(torch.ones(2, 8, 5, 4, device="meta"))
    layer.gn.to("meta")
    with pytest.raises(RuntimeError, match=r"EMAM.gn, .*parameters on meta and its input on cpu"):
        layer(torch.ones(2, 8, 5, 4))


def test_a_count_of_batches_without_a_value():
    layer = SMALL[2].layer(dtype=torch.float32)
    layer.spatial.bn.num_batches_tracked = layer.spatial.bn.num_batches_tracked.to("meta")
    with pytest.raises(RuntimeError, match=r"bn.num_batches_tracked on meta"):
        layer(torch.ones(2, 8, 5, 4))


def test_graph_reasoning():
    module = NeighbourAggregation(6, 5, 7, ratio=2)
    module.score.to("meta")
    with pytest.raises(RuntimeError, match=r"NeighbourAggregation needs.*score.weight on meta"):
        module(torch.ones(2, 6, 2, 3), torch.ones(2, 7, 2, 3), torch.ones(2, 5, 4, 6))


def test_everything_on_meta_runs():
    for case in SMALL:
        layer = case.layer(dtype=torch.float32).to("meta")
        for size in SIZES.values():
            assert layer(torch.ones(size, device="meta")).is_meta
