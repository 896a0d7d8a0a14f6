"""Kernels mix a layer in where it is as it was made; one that is watched or changed is called, and its output kept."""

import copy

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from panet_layers import EMAM, SCAM
from panet_layers.insertion.share import shared
from panet_layers.ops.native import library


class Derived(EMAM):
    """A subclass, whose forward may be another."""


def hooked(layer):
    layer.register_forward_hook(lambda module, args, output: None)
    return layer


def compiled_in_place(layer):
    layer.compile(backend="eager")
    return layer


def parametrised(layer):
    torch.nn.utils.parametrizations.weight_norm(layer.conv3x3)
    return layer


@pytest.mark.skipif(library.why_not() is not None, reason="no compiled kernels")
@pytest.mark.parametrize(
    ("layer", "by_kernels"),
    [
        (EMAM(16), True),
        (SCAM(16), True),
        (copy.deepcopy(EMAM(16)), True),
        (EMAM(16, backend="collapsed"), False),
        (hooked(EMAM(16)), False),
        (hooked(SCAM(16)), False),
        (parametrised(EMAM(16)), False),
        (compiled_in_place(EMAM(16)), False),
        (Derived(16), False),
        (nn.Tanh(), False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else str(value),
)
def test_kernels_mix_a_layer_that_is_as_it_was_made(layer, by_kernels):
    x = torch.randn(2, 16, 24, 20, requires_grad=True)
    share = torch.full((1,), 0.3, requires_grad=True)
    out = shared(x, layer, share)
    assert out.grad_fn.name() == (f"_{type(layer).__name__}Backward" if by_kernels else "_JoinBackward")
    torch.testing.assert_close(out, torch.lerp(x, layer(x), share))


def of_the_part(layer, seen):
    layer.spatial.register_forward_hook(lambda module, args, output: seen.append(output))


def of_all_modules(layer, seen):
    return nn.modules.module.register_module_forward_hook(lambda module, args, output: seen.append(output))


def around_its_forward(layer, seen):
    forward = layer.forward
    layer.forward = lambda x: seen.append(forward(x)) or seen[-1]


@pytest.mark.parametrize("held", [of_the_part, of_all_modules, around_its_forward])
@torch.no_grad()
def test_an_output_that_something_else_holds_is_not_written_over(held):
    layer, x, seen = SCAM(16).double(), torch.randn(2, 16, 24, 20, dtype=torch.float64), []
    expected = layer(x)
    handle = held(layer, seen)
    try:
        shared(x, layer, torch.full((1,), 0.3, dtype=torch.float64))
    finally:
        if handle:
            handle.remove()
    torch.testing.assert_close(seen[-1], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("gradients", [False, True])
def test_a_traced_graph_takes_the_share_of_each_call(gradients):
    layer, x = EMAM(16).double(), torch.randn(2, 16, 12, 10, dtype=torch.float64)
    with torch.set_grad_enabled(gradients):
        graph = make_fx(lambda x, share: shared(x, layer, share))(x, torch.zeros(1, dtype=torch.float64))
        share = torch.full((1,), 0.3, dtype=torch.float64)
        torch.testing.assert_close(graph(x, share), torch.lerp(x, layer(x), share), rtol=0, atol=1e-12)
