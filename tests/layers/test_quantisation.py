"""Lower precision by other packages: half-precision models, torchao, PyTorch's and onnxruntime's int8."""

import copy

import pytest
import torch
from torch import nn

from panet_layers import EMAM, SCAM
from tests.layers.cases import assert_same
from tests.layers.hosts import LAYERS, build, images, outputs, sizes

INT8 = 3e-2  # relative to the largest output; 8 bits for each weight
DYNAMIC = ({0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO},)
FORMS = {"paper": {}, "published": {"mlp_bias": True, "spatial_norm": "batch"}}


class Host(nn.Module):
    """A convolution, both layers, a classifier; large inputs run the operators, small ones the formulas."""

    def __init__(self, form):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 64, 3, stride=2)
        self.scam, self.emam = SCAM(64, 4, **FORMS[form]), EMAM(64)
        self.classifier = nn.Linear(64, 10)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.5 if parameter.dim() < 2 else parameter[0].numel() ** -0.5)

    def forward(self, x):
        return self.classifier(self.emam(self.scam(self.stem(x).relu())).mean((2, 3)))


SIZES = [(2, 32, 40), (1, 190, 201)]


def check(quantised, model):
    for size in SIZES:
        x = images("timm", *size)
        with torch.no_grad():
            assert_same({"": quantised(x)}, {"": model(x)}, INT8)
            assert not torch.equal(quantised(x), model(x))


@pytest.fixture(params=FORMS)
def model(request):
    return Host(request.param).eval()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 1e-2), (torch.bfloat16, 8e-2)], ids=str)
@pytest.mark.parametrize("name", [*LAYERS, "timm", "panet"])
def test_model_in_half_precision(name, dtype, tolerance):
    model = build(name)
    lower = copy.deepcopy(model).to(dtype)
    x = images(name, *sizes(name)[0])
    actual, expected = outputs(lower(x.to(dtype)))["0"], outputs(model(x))["0"]
    assert actual.dtype == dtype
    assert_same({"": actual.float()}, {"": expected}, tolerance)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_pytorchs_dynamic_quantisation(model):
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    assert type(quantised.scam.channel.fc1) is not nn.Linear
    check(quantised, model)


@pytest.mark.parametrize("recipe", ["Int8WeightOnlyConfig", "Int8DynamicActivationInt8WeightConfig"])
def test_torchao(model, recipe):
    torchao = pytest.importorskip("torchao.quantization", reason="torchao is in the extra `export`")
    quantised = copy.deepcopy(model)
    torchao.quantize_(quantised, getattr(torchao, recipe)())
    assert type(quantised.scam.channel.fc1.weight) is not nn.Parameter
    check(quantised, model)
    program = torch.export.export(quantised, (images("timm", *SIZES[0]),), dynamic_shapes=DYNAMIC)
    check(program.module(), model)


def test_torchao_on_a_bfloat16_model(model):
    torchao = pytest.importorskip("torchao.quantization", reason="torchao is in the extra `export`")
    quantised = copy.deepcopy(model).bfloat16()
    torchao.quantize_(quantised, torchao.Int8WeightOnlyConfig())
    for size in SIZES:
        x = images("timm", *size)
        assert_same({"": quantised(x.bfloat16()).float()}, {"": model(x)}, 5e-2)


def test_torchao_on_the_detector():
    """Graph reasoning calls its linear layers then, whose weights it reads as matrices otherwise."""
    torchao = pytest.importorskip("torchao.quantization", reason="torchao is in the extra `export`")
    model = build("panet")
    quantised = copy.deepcopy(model)
    torchao.quantize_(quantised, torchao.Int8WeightOnlyConfig())
    assert type(quantised.graph_reasoning.aggregate_x2.score.weight) is not nn.Parameter
    x = images("panet", *sizes("panet")[0])
    assert_same({"": quantised(x).logits}, {"": model(x).logits}, INT8)


@pytest.mark.slow  # about ten seconds
@pytest.mark.filterwarnings("ignore")
def test_quantisation_of_an_exported_program(model):
    """PyTorch 2 export quantisation: convolutions and linear layers in int8 after a calibration."""
    pt2e = pytest.importorskip("torchao.quantization.pt2e.quantize_pt2e", reason="torchao is in the extra `export`")
    x86 = pytest.importorskip("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer")
    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    program = torch.export.export(model, (images("timm", *SIZES[0]),), dynamic_shapes=DYNAMIC)
    prepared = pt2e.prepare_pt2e(program.module(), quantizer)
    for size in SIZES:
        prepared(images("timm", *size))
    converted = pt2e.convert_pt2e(prepared)
    assert any("quantize_per_tensor" in str(node.target) for node in converted.graph.nodes)
    check(converted, model)


@pytest.mark.slow
@pytest.mark.parametrize("operators", [["MatMul", "Gemm"], None], ids=["matmul", "all"])
def test_onnxruntimes_dynamic_quantisation(model, operators, tmp_path):
    reason = "ONNX needs the packages of the extra `export`"
    onnxruntime = pytest.importorskip("onnxruntime", reason=reason)
    quantization = pytest.importorskip("onnxruntime.quantization", reason=reason)
    pytest.importorskip("onnxscript", reason=reason)
    path, smaller = tmp_path / "model.onnx", tmp_path / "int8.onnx"
    x = images("timm", *SIZES[0])
    torch.onnx.export(model, (x,), path, dynamo=True, dynamic_shapes=DYNAMIC, verbose=False)
    quantization.quantize_dynamic(
        path, smaller, op_types_to_quantize=operators, weight_type=quantization.QuantType.QUInt8
    )
    session = onnxruntime.InferenceSession(smaller, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    check(lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0]), model)
