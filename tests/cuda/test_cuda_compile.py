"""Fused layers under torch.compile, torch.export and AOTInductor; and which backend `auto` takes."""

import pytest
import torch
from torch.export import Dim

from panet_layers import use_backend
from panet_layers.ops.emam import autograd as emam_autograd
from panet_layers.ops.scam import autograd as scam_autograd
from tests.cuda.on_device import LAYOUTS, SMALL, placed
from tests.layers.cases import assert_same, run
from tests.layers.exporting import exported

pytestmark = pytest.mark.usefixtures("fresh_compiler")

CASE = pytest.mark.parametrize("case", SMALL, ids=str)
LAYOUT = pytest.mark.parametrize("layout", LAYOUTS)
DYNAMIC = {0: Dim("batch", min=1, max=4096), 2: Dim("height", min=2, max=4096), 3: Dim("width", min=2, max=4096)}
SIZES = [(2, 5, 4), (3, 5, 4), (3, 9, 4), (3, 9, 11), (7, 40, 33)]


def compiler(device):
    """Inductor on the GPU; on the CPU only the part before it, which needs no C++ compiler."""
    return "inductor" if device.type == "cuda" else "aot_eager"


def tolerance(device):
    """Compiled code around an opaque operator: the same kernels on the same numbers."""
    return 1e-6 if device.type == "cuda" else 0.0


@LAYOUT
@CASE
def test_compiled_is_eager(case, layout, device):
    expected = run(*placed(case, device, layout=layout))
    layer, x, grad = placed(case, device, layout=layout)
    layer.compile(fullgraph=True, backend=compiler(device))
    outcome = run(layer, x, grad)
    assert outcome["output"].stride() == expected["output"].stride()
    assert_same(outcome, expected, tolerance(device))


@CASE
def test_new_sizes_compile_nothing_new(case, device):
    layer, *_ = placed(case, device)
    layer.compile(fullgraph=True, backend=compiler(device), dynamic=True)
    for i, (batch, height, width) in enumerate(SIZES[: None if device.type == "cuda" else 4]):
        eager, x, grad = placed(case._replace(batch=batch, height=height, width=width), device)
        eager.load_state_dict(layer.state_dict())
        with torch._dynamo.config.patch(error_on_recompile=i > 0):
            outcome = run(layer, x, grad)
        assert_same(outcome, run(eager, x, grad), tolerance(device))


def exported_for_inference(case, device):
    """Return the layer for inference, and its program for any batch and size."""
    layer, x, _ = placed(case, device)
    layer = layer.eval().requires_grad_(False)
    with torch.no_grad():
        return layer, exported(layer, x, DYNAMIC)


def check_inference(program, layer, case, device):
    for batch, height, width in SIZES[:: 2 if device.type == "cpu" else 1]:
        _, x, _ = placed(case._replace(batch=batch, height=height, width=width), device)
        assert_same({"output": program(x)}, {"output": layer(x)}, tolerance(device))


@CASE
def test_export(case, device):
    layer, program = exported_for_inference(case, device)
    targets = [str(node.target) for node in program.graph.nodes]
    assert sum("_fused_forward" in target for target in targets) == 1
    check_inference(program.module(), layer, case, device)


@pytest.mark.cuda
@pytest.mark.parametrize("case", SMALL[:2], ids=str)
def test_package_of_aot_inductor(case, gpu, tmp_path):
    layer, program = exported_for_inference(case, gpu)
    path = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "layer.pt2"))
    check_inference(torch._inductor.aoti_load_package(path), layer, case, gpu)


@pytest.fixture
def ran(monkeypatch):
    """The backend of each forward and backward that ran, in order."""
    calls = []

    class Recording(dict):
        def __getitem__(self, backend):
            calls.append(backend)
            return super().__getitem__(backend)

    for module in (emam_autograd, scam_autograd):
        monkeypatch.setattr(module, "OPERATORS", Recording(module.OPERATORS))
    return calls


@pytest.mark.cuda
@pytest.mark.parametrize("backend", [None, "auto"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
@CASE
def test_auto_takes_triton_except_for_float64(case, dtype, backend, gpu, ran):
    layer, x, grad = placed(case, gpu, dtype)
    layer.backend = backend
    with use_backend("auto"):
        run(layer, x, grad)
    assert ran == ["collapsed" if dtype == torch.float64 else "triton"] * 2


@CASE
def test_triton_by_name(case, device, ran):
    run(*placed(case, device))
    assert ran == ["triton", "triton"]
