"""Tensors on two devices: one clear error, whatever the size and the backend; never a result of unwritten memory."""

import copy

import pytest
import torch

from panet_layers import ChannelAttention, SpatialAttention, functional
from tests.layers.cases import SMALL, with_backend

SIZES = {"small": (2, 8, 5, 4), "large": (1, 8, 300, 300)}
BACKENDS = (None, "reference", "collapsed", "triton")
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


def test_everything_on_meta_runs():
    for case in SMALL:
        layer = case.layer(dtype=torch.float32).to("meta")
        for size in SIZES.values():
            assert layer(torch.ones(size, device="meta")).is_meta
