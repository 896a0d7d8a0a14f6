"""Tracers other than the compiler: TorchScript, torch.fx, and the feature extractors built on it."""

import copy
import io

import pytest
import timm
import torch
import torchvision
from torch import fx, nn
from torchvision.models.feature_extraction import create_feature_extractor

from panet_layers import EMAM, SCAM, ChannelAttention, SpatialAttention
from tests.layers.cases import SMALL, assert_same, tensors, with_backend
from tests.layers.hosts import LAYERS, NETWORKS, build, images, outputs, sizes


def through_a_file(traced):
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    return torch.jit.load(file)


@pytest.mark.filterwarnings("error", "ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", [*LAYERS, *NETWORKS])
def test_torchscript_trace_holds_for_other_sizes(name):
    """Without a tracer's warning: the graph has no constant of the traced size."""
    model = build(name, torch.float64)
    example = images(name, *sizes(name)[0]).double()
    traced = through_a_file(torch.jit.trace(model, (example,), check_trace=False))
    for size in sizes(name):
        x = images(name, *size).double()
        assert_same(outputs(traced(x)), outputs(model(x)))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("case", [SMALL[0], SMALL[1], SMALL[3]], ids=str)
def test_torchscript_trace_needs_no_operator_of_this_package(case):
    x, _ = tensors(case)
    layer = with_backend(case.layer(), "collapsed")
    traced = torch.jit.trace(layer, (x,))
    assert "panet_layers::" not in str(traced.inlined_graph) and "PythonOp" not in str(traced.inlined_graph)
    assert_same({"": traced(x).detach()}, {"": layer(x).detach()})


def host():
    torch.manual_seed(0)
    attention = [EMAM(16), SCAM(16), SCAM(16, spatial_norm="batch"), ChannelAttention(16), SpatialAttention()]
    return nn.Sequential(nn.Conv2d(3, 16, 3), *attention, nn.ReLU())


@pytest.mark.parametrize("training", [True, False])
def test_symbolic_trace_calls_the_layers(training):
    model = host().train(training)
    graph = fx.symbolic_trace(copy.deepcopy(model))
    assert [node.target for node in graph.graph.nodes if node.op == "call_module"] == [str(i) for i in range(7)]
    assert not [node for node in graph.graph.nodes if node.op in ("call_function", "call_method", "get_attr")]
    assert isinstance(graph.get_submodule("1"), EMAM)
    for batch, height, width in ((2, 9, 8), (3, 12, 5)):
        x = torch.randn(batch, 3, height, width)
        assert_same({"": graph(x)}, {"": model(x)}, 0)
    assert_same(dict(graph.named_buffers()), dict(model.named_buffers()), 0)


def test_graph_trains():
    model = host()
    graph = fx.symbolic_trace(copy.deepcopy(model))
    x = torch.randn(2, 3, 9, 8)
    for network in (model, graph):
        network(x).square().sum().backward()
    gradients = [{name: p.grad for name, p in network.named_parameters()} for network in (graph, model)]
    assert_same(*gradients, 0)


def test_keyword_argument():
    class Host(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = EMAM(8)

        def forward(self, features):
            return self.attention(x=features)

    x, model = torch.randn(2, 8, 5, 4), Host()
    assert_same({"": fx.symbolic_trace(model)(x)}, {"": model(x)}, 0)


def test_torchvision_feature_extractor():
    network = torchvision.models.resnet18()
    network.layer2 = nn.Sequential(network.layer2, EMAM(128))
    x = images("timm", 2, 64, 64)
    features = create_feature_extractor(network.eval(), ["layer2.1", "fc"])(x)
    assert_same({"": features["fc"]}, {"": network(x)}, 0)
    before = torch.nn.Sequential(*list(network.children())[:5])(x)
    assert_same({"": features["layer2.1"]}, {"": network.layer2(before)}, 0)


def test_timm_feature_extractors():
    options = {"features_only": True, "channels": (16, 16, 32, 32), "block_args": {"attn_layer": EMAM}}
    networks = []
    for way in ({}, {"feature_cls": "fx"}):
        torch.manual_seed(0)
        networks.append(timm.create_model("resnet10t", **options, **way).eval())
    plain, by_graph = networks
    assert type(by_graph).__name__ == "FeatureGraphNet"
    by_graph.graph_module.load_state_dict(plain.state_dict())
    x = images("timm", 2, 64, 96)
    for expected, actual in zip(plain(x), by_graph(x), strict=True):
        assert_same({"": actual}, {"": expected}, 0)
