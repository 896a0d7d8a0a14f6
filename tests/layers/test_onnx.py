"""ONNX: `torch.onnx.export(model, x, dynamo=True)` and nothing else, then any batch and image size in onnxruntime."""

import copy
import logging

import pytest
import torch

from tests.layers.cases import assert_same
from tests.layers.exporting import exported
from tests.layers.hosts import LAYERS, build, images, outputs, sizes

onnx = pytest.importorskip("onnx", reason="ONNX needs the packages of the extra `export`")
onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX needs the packages of the extra `export`")
pytest.importorskip("onnxscript", reason="ONNX needs the packages of the extra `export`")

EQUAL = 1e-5
HOSTS = [
    *LAYERS,
    pytest.param("inserted", marks=pytest.mark.slow),
    pytest.param("timm", marks=pytest.mark.long),
    pytest.param("panet", marks=pytest.mark.slow),  # about 20 s
]
DYNAMIC = ({0: "batch", 2: "height", 3: "width"},)


@pytest.fixture(autouse=True)
def quiet_exporter(caplog):
    caplog.set_level(logging.ERROR)


def onnx_graph(model, x, path, **options):
    torch.onnx.export(model, (x,), path, dynamo=True, dynamic_shapes=DYNAMIC, verbose=False, **options)
    return onnx.load(path)


def run_onnx(path, x):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (name,) = (node.name for node in session.get_inputs())
    return {str(i): torch.from_numpy(out) for i, out in enumerate(session.run(None, {name: x.numpy()}))}


def check(model, path, name, tolerance=EQUAL):
    for size in sizes(name):
        x = images(name, *size)
        assert_same(run_onnx(path, x), outputs(model(x)), max(tolerance, budget(model, x)))


def budget(model, x):
    """How much two ways to round may differ: at most three times PyTorch's distance from float64.

    Only PANet's deep decoder comes near `EQUAL` with it.
    """
    exact, plain = outputs(copy.deepcopy(model).double()(x.double())), outputs(model(x))
    return 3 * max((plain[key] - value).abs().max().item() for key, value in exact.items() if value.numel())


@pytest.mark.parametrize("name", HOSTS)
def test_any_batch_and_size(name, tmp_path):
    model, path = build(name), tmp_path / "model.onnx"
    graph = onnx_graph(model, images(name, *sizes(name)[0]), path)
    assert {opset.domain for opset in graph.opset_import} == {""} and graph.opset_import[0].version >= 18
    assert not graph.functions
    assert not [node.op_type for node in graph.graph.node if "Pool" in node.op_type and "Global" in node.op_type]
    check(model, path, name)


@pytest.mark.parametrize("name", LAYERS)
def test_opset_18(name, tmp_path):
    model, path = build(name), tmp_path / "model.onnx"
    graph = onnx_graph(model, images(name, *sizes(name)[0]), path, opset_version=18)
    assert graph.opset_import[0].version == 18
    check(model, path, name)


@pytest.mark.parametrize("name", LAYERS)
def test_nothing_but_the_model_and_an_input(name, tmp_path):
    """The shapes are those of the input, and a backend that the layer names doesn't matter."""
    model, path = build(name), tmp_path / "model.onnx"
    x = images(name, *sizes(name)[0])
    for backend in ("collapsed", "triton"):
        model.backend = backend
        torch.onnx.export(model, (x,), path, dynamo=True, verbose=False)
        model.backend = "reference"
        assert_same(run_onnx(path, x), outputs(model(x)), EQUAL)


@pytest.mark.parametrize("name", LAYERS)
def test_a_program_that_torch_export_made(name, tmp_path):
    model, path = build(name), tmp_path / "model.onnx"
    x = images(name, *sizes(name)[0])
    torch.onnx.export(exported(model, x), (), path, dynamo=True, verbose=False)
    check(model, path, name)


@pytest.mark.parametrize(
    ("name", "opset"),
    [*((name, opset) for name in LAYERS for opset in (11, 13, 18)), pytest.param("panet", 11, marks=pytest.mark.slow)],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_exporter_by_torchscript(name, opset, tmp_path):
    model, path = build(name), tmp_path / "model.onnx"
    x = images(name, *sizes(name)[0])
    axes = {"x": {0: "batch", 2: "height", 3: "width"}}
    torch.onnx.export(model, (x,), path, dynamo=False, input_names=["x"], dynamic_axes=axes, opset_version=opset)
    assert onnx.load(path).opset_import[0].version == opset
    check(model, path, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_half_precision(name, tmp_path):
    """A model in float16 gives a graph in float16, statistics and gates in float32 as in PyTorch."""
    model, path = build(name), tmp_path / "model.onnx"
    onnx_graph(copy.deepcopy(model).half(), images(name, *sizes(name)[0]).half(), path)
    for size in sizes(name):
        x = images(name, *size)
        actual = run_onnx(path, x.half())
        assert all(out.dtype == torch.float16 for out in actual.values())
        assert_same({key: out.float() for key, out in actual.items()}, outputs(model(x)), 2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_conversion_to_float16(name, tmp_path):
    convert = pytest.importorskip("onnxruntime.transformers.float16").convert_float_to_float16
    model, path = build(name), tmp_path / "model.onnx"
    onnx.save(convert(onnx_graph(model, images(name, *sizes(name)[0]), path), keep_io_types=True), path)
    check(model, path, name, tolerance=1e-2)
