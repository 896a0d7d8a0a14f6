"""torch.export: dynamic batch and size, a layer that still works afterwards, and what the graph needs to be run."""

import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn
from torch.export import Dim

from tests.layers.cases import BACKENDS, SMALL, assert_same, run, tensors, with_backend
from tests.layers.exporting import exported
from tests.layers.hosts import LAYERS, NETWORKS, build, images, outputs, sizes

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

    program = exported(layer, x, DYNAMIC, strict=strict)

    check(program, layer, case)
    assert_same(run(layer, x, grad), expected)


@pytest.mark.parametrize("case", EVALUATED, ids=str)
def test_export_without_gradients_keeps_the_operator(case):
    """For deployment: one operator for each layer, which decomposition does not change."""
    layer = with_backend(case.layer(), "collapsed").eval().requires_grad_(False)
    with torch.no_grad():
        program = exported(layer, tensors(case)[0], DYNAMIC)
        program = program.run_decompositions()
    operators = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert sum(name.startswith("panet_layers.") for name in operators) == 1
    check(program, layer, case)


@pytest.mark.parametrize("strict", [False, True], ids=["non-strict", "strict"])
def test_a_layer_that_is_used_twice_keeps_its_operator(strict):
    for case in (EVALUATED[0], EVALUATED[-1]):
        layer = with_backend(case.layer(), "collapsed").eval().requires_grad_(False)
        network = nn.Sequential(layer, nn.ReLU(), layer)
        with torch.no_grad():
            program = exported(network, tensors(case)[0], DYNAMIC, strict=strict)
        operators = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
        assert sum(name.startswith("panet_layers.") for name in operators) == 2
        check(program, network, case)


def test_save_and_load(tmp_path):
    for case in EVALUATED:
        layer = with_backend(case.layer(), "collapsed").eval()
        path = tmp_path / "layer.pt2"
        torch.export.save(exported(layer, tensors(case)[0], DYNAMIC), path)
        check(torch.export.load(path), layer, case)


def test_export_for_training_updates_the_running_statistics():
    case = SMALL[2]
    assert case.norm and case.training
    x, _ = tensors(case)
    layer = with_backend(case.layer(), "collapsed")
    program = torch.export.export(with_backend(layer, "collapsed"), (x,))
    module = program.module()
    out, expected = module(x), layer(x)
    assert_same({"output": out.detach()}, {"output": expected.detach()})
    assert_same(dict(module.named_buffers()), dict(layer.named_buffers()))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*LAYERS, *NETWORKS])
def test_without_a_named_backend_a_graph_has_no_operator_of_this_package(name):
    """And no constant of the traced size: other sizes are right too."""
    model = build(name, torch.float64)
    program = exported(model, images(name, *sizes(name)[0]).double())
    assert "panet_layers" not in str(program.graph)
    module = program.module()
    for size in sizes(name):
        x = images(name, *size).double()
        try:
            actual = outputs(module(x))
        except AssertionError as error:
            if torch.__version__ < "2.14" and "Guard failed" in str(error):
                pytest.skip("needs a torch that exports such a network without guards on its sizes")
            raise
        assert_same(actual, outputs(model(x)))


WITHOUT_US = """
    import sys
    sys.modules["panet_layers"] = None  # an import of it fails
    import torch
    program, package, data = sys.argv[1:]
    data = torch.load(data)
    runs = [torch.export.load(program).module()]
    if package:
        runs.append(torch._inductor.aoti_load_package(package))
    for run in runs:
        for x, expected in data:
            torch.testing.assert_close(run(x), expected, rtol=1e-4, atol=1e-5)
"""


def run_without_us(tmp_path, model, name, program, package=""):
    """Load and run in a process that cannot import the package."""
    inputs = [images(name, *size) for size in sizes(name)]
    torch.save([(x, model(x).detach()) for x in inputs], tmp_path / "data.pt")
    torch.export.save(program, tmp_path / "program.pt2")
    files = [str(tmp_path / "program.pt2"), package, str(tmp_path / "data.pt")]
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(WITHOUT_US), *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_saved_program_runs_without_this_package(tmp_path):
    model = build("timm")
    run_without_us(tmp_path, model, "timm", exported(model, images("timm", *sizes("timm")[0])))


@pytest.mark.slow  # about a minute: the C++ compiler
def test_package_of_aot_inductor_runs_without_this_package(tmp_path):
    model = build("timm")
    with torch.no_grad():
        program = exported(model, images("timm", *sizes("timm")[0]))
    package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "timm.pt2"))
    run_without_us(tmp_path, model, "timm", program, package)


@pytest.mark.slow  # about half a minute: the C++ compiler
def test_package_of_aot_inductor_with_a_named_backend(tmp_path):
    """It calls the registered operators, for any batch and size."""
    layers = nn.Sequential(*(with_backend(case.layer(), "collapsed") for case in (EVALUATED[0], EVALUATED[-1])))
    layers = layers.eval().requires_grad_(False)
    bounded = {0: Dim("batch", min=1, max=64), 2: Dim("height", min=2, max=512), 3: Dim("width", min=2, max=512)}
    with torch.no_grad():
        program = exported(layers, tensors(EVALUATED[0])[0], bounded)
    path = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "layers.pt2"))
    run_package = torch._inductor.aoti_load_package(path)
    for batch, height, width in NEW_SIZES:
        x, _ = tensors(EVALUATED[0]._replace(batch=batch, height=height, width=width))
        assert_same({"output": run_package(x)}, {"output": layers(x)})
