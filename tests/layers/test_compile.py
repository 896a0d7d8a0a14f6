"""torch.compile: one graph, eager's outputs and gradients, no new compilation when only a size changes."""

import pytest
import torch
from torch import nn

from tests.layers.cases import BACKENDS, SMALL, assert_same, run, tensors, with_backend


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Block(nn.Module):
    """The layer between others, its output changed in place, as backbones have it."""

    def __init__(self, layer, channels):
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1, dtype=torch.float64)
        self.layer = layer

    def forward(self, x):
        shortcut = self.convolution(x)
        x = self.layer(shortcut.relu())
        x += shortcut
        return x


def compiled_run(module, x, grad, **options):
    """As `run`, with the module's forward compiled."""
    module.compile(fullgraph=True, **options)
    return run(module, x, grad)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_outputs_and_gradients_are_eagers(case, backend):
    x, grad = tensors(case)
    expected = run(Block(with_backend(case.layer(), backend), case.channels), x, grad)
    block = Block(with_backend(case.layer(), backend), case.channels)
    assert_same(compiled_run(block, x, grad, backend="aot_eager"), expected)


@pytest.mark.slow  # about 15 s: inductor calls the C++ compiler
@pytest.mark.parametrize("case", [SMALL[0], SMALL[2]], ids=str)
def test_inductor(case):
    x, grad = (t.contiguous(memory_format=torch.channels_last) for t in tensors(case))
    expected = run(Block(with_backend(case.layer(), "collapsed"), case.channels), x, grad)
    assert_same(compiled_run(Block(with_backend(case.layer(), "collapsed"), case.channels), x, grad), expected)


@pytest.mark.parametrize("how", ["dynamic=True", "mark_dynamic"])
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_new_sizes_compile_nothing_new(case, how):
    eager = with_backend(case.layer(), "collapsed")
    layer = with_backend(case.layer(), "collapsed")
    layer.compile(fullgraph=True, backend="aot_eager", dynamic=True if how == "dynamic=True" else None)
    for i, (batch, height, width) in enumerate([(2, 5, 4), (3, 5, 4), (3, 9, 4), (3, 9, 11), (7, 40, 33)]):
        x, grad = tensors(case._replace(batch=batch, height=height, width=width))
        if how == "mark_dynamic":
            for dim in (0, 2, 3):
                torch._dynamo.mark_dynamic(x, dim)
        x.requires_grad_()
        with torch._dynamo.config.patch(error_on_recompile=i > 0):
            out = layer(x)
            (of_x,) = torch.autograd.grad(out, x, grad)
        expected = run(eager, x, grad)
        assert_same({"output": out, "grad x": of_x}, {name: expected[name] for name in ("output", "grad x")})
    assert_same(dict(layer.named_buffers()), dict(eager.named_buffers()))


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_autocast_inside_compile(case):
    layer = with_backend(case.layer(dtype=torch.float32), "collapsed")
    convolution = nn.Conv2d(3, case.channels, 3)

    def step(x):
        with torch.autocast("cpu", torch.bfloat16):
            return layer(convolution(x))

    x = torch.randn(2, 3, 9, 8)
    outcomes = {}
    for name, function in (("eager", step), ("compiled", torch.compile(step, fullgraph=True, backend="aot_eager"))):
        inputs = [x.clone().requires_grad_(), *layer.parameters(), *convolution.parameters()]
        out = function(inputs[0])
        assert out.dtype == torch.bfloat16
        grads = torch.autograd.grad(out.float().square().sum(), inputs)
        assert all(g.dtype == torch.float32 for g in grads)
        outcomes[name] = {"out": out} | {f"grad {i}": g for i, g in enumerate(grads)}
    assert_same(outcomes["compiled"], outcomes["eager"], 1e-2)


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_without_gradients(case):
    x, _ = tensors(case)
    layer = with_backend(case.layer(), "collapsed")
    expected = with_backend(layer, "collapsed")(x).detach()
    layer.compile(fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert_same({"output": layer(x)}, {"output": expected})


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_memory_format_is_eagers(memory_format):
    for case in SMALL:
        x = tensors(case)[0].contiguous(memory_format=memory_format)
        layer = with_backend(case.layer(), "collapsed")
        layer.compile(fullgraph=True, backend="aot_eager")
        assert layer(x).is_contiguous(memory_format=memory_format)
