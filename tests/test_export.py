"""torch.export: dynamic batch and size, and a layer that still works afterwards."""

import pytest
import torch
from cases import BACKENDS, SMALL, assert_same, run, tensors, with_backend
from torch import nn
from torch.export import Dim

DYNAMIC = {0: Dim("batch", min=1), 2: Dim("height", min=2), 3: Dim("width", min=2)}
EVALUATED = [case for case in SMALL if not getattr(case, "norm", None) or not case.training]
NEW_SIZES = [(2, 5, 4), (5, 3, 7), (2, 40, 33)]


def check(program, layer, case):
    for batch, height, width in NEW_SIZES:
        x, _ = tensors(case._replace(batch=batch, height=height, width=width))
        assert_same({"output": program.module()(x).detach()}, {"output": layer(x).detach()})


@pytest.mark.parametrize("strict", [False, True], ids=["non-strict", "strict"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", EVALUATED, ids=str)
def test_export_and_then_use(case, backend, strict):
    x, grad = tensors(case)
    layer = with_backend(case.layer(), backend).eval()
    expected = run(layer, x, grad)

    program = torch.export.export(layer, (x,), dynamic_shapes=(DYNAMIC,), strict=strict)

    check(program, layer, case)
    assert_same(run(layer, x, grad), expected)


@pytest.mark.parametrize("case", EVALUATED, ids=str)
def test_export_without_gradients_keeps_the_operator(case):
    """For deployment: one operator a layer, which decomposition leaves alone; saved and loaded again."""
    layer = with_backend(case.layer(), "collapsed").eval().requires_grad_(False)
    with torch.no_grad():
        program = torch.export.export(layer, (tensors(case)[0],), dynamic_shapes=(DYNAMIC,))
        program = program.run_decompositions()
    operators = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert sum(name.startswith("panet_layers.") for name in operators) == 1
    check(program, layer, case)


def test_save_and_load(tmp_path):
    for case in EVALUATED:
        layer = with_backend(case.layer(), "collapsed").eval()
        path = tmp_path / "layer.pt2"
        torch.export.save(torch.export.export(layer, (tensors(case)[0],), dynamic_shapes=(DYNAMIC,)), path)
        check(torch.export.load(path), layer, case)


def test_export_for_training_moves_the_running_statistics():
    case = SMALL[2]
    assert case.norm and case.training
    x, _ = tensors(case)
    layer = with_backend(case.layer(), "collapsed")
    program = torch.export.export(with_backend(layer, "collapsed"), (x,))
    exported = program.module()
    out, expected = exported(x), layer(x)
    assert_same({"output": out.detach()}, {"output": expected.detach()})
    assert_same(dict(exported.named_buffers()), dict(layer.named_buffers()))


@pytest.mark.slow  # about half a minute: the C++ compiler
def test_package_of_aot_inductor(tmp_path):
    """Compiled ahead of time, loaded and run, for any batch and size; the package calls the registered operators."""
    layers = nn.Sequential(*(with_backend(case.layer(), "collapsed") for case in (EVALUATED[0], EVALUATED[-1])))
    layers = layers.eval().requires_grad_(False)
    bounded = {0: Dim("batch", min=1, max=64), 2: Dim("height", min=2, max=512), 3: Dim("width", min=2, max=512)}
    with torch.no_grad():
        program = torch.export.export(layers, (tensors(EVALUATED[0])[0],), dynamic_shapes=(bounded,))
    path = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "layers.pt2"))
    run_package = torch._inductor.aoti_load_package(path)
    for batch, height, width in NEW_SIZES:
        x, _ = tensors(EVALUATED[0]._replace(batch=batch, height=height, width=width))
        assert_same({"output": run_package(x)}, {"output": layers(x)})
