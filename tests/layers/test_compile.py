"""torch.compile: one graph, eager's outputs and gradients, no new compilation when only a size changes."""

import pytest
import torch
from torch import nn

from tests.layers.cases import BACKENDS, SMALL, assert_one_compilation_serves, assert_same, run, tensors, with_backend
from tests.layers.hosts import Block

pytestmark = pytest.mark.usefixtures("fresh_compiler")


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
    sizes = [(2, 5, 4), (3, 5, 4), (3, 9, 4), (3, 9, 11), (7, 40, 33)]
    assert_one_compilation_serves(sizes, case, "collapsed", mark=how == "mark_dynamic")


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
