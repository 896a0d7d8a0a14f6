"""ONNX files of opset 17 and 18 in onnxruntime and OpenVINO: plain operators, torch's results, any batch and size."""

import re
from pathlib import Path

import pytest
import torch

from panet_layers import remove_attention
from tests.layers.cases import assert_same
from tests.layers.hosts import LAYERS, build, images, resnet, sizes
from tests.layers.runtimes import RUNTIMES, operators, opset, write

pytest.importorskip("onnx", reason="ONNX needs the packages of the extra `export`")
pytest.importorskip("onnxscript", reason="ONNX needs the packages of the extra `export`")

EQUAL = 1e-5  # of the largest value of the output, or of 1
PAGE = Path(__file__).parents[2] / "docs/export.md"
WAYS = [
    (17, False),
    (18, False),
    pytest.param((18, True), marks=pytest.mark.slow),
]
NAMES = {"emam": "EMAM", "scam": "SCAM", "cbam": "SCAM"}


def documented(layer, dynamo, dynamic):
    """The operators in the page's table; those of any size are in brackets."""
    exporter = f"`dynamo={dynamo}`"
    (row,) = (line for line in PAGE.read_text().splitlines() if line.startswith(f"| {layer} | {exporter} |"))
    cell = row.split("|")[3]
    return set(re.findall(r"[A-Z]\w+", cell if dynamic else re.sub(r"\(.*?\)", "", cell)))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A function that writes each file once."""
    files = {}

    def get(name, way, dynamic):
        key = name, way, dynamic
        if key not in files:
            path = tmp_path_factory.mktemp("onnx") / "model.onnx"
            model = build(name)
            files[key] = model, write(model, images(name, *sizes(name)[0]), path, *way, dynamic)
        return files[key]

    return get


def check(run, model, name, dynamic):
    for size in sizes(name)[: None if dynamic else 1]:
        x = images(name, *size)
        assert_same({"out": run(x)}, {"out": model(x).detach()}, EQUAL)


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_has_the_operators_that_the_page_lists_and_no_others(exported, name, way, dynamic):
    _, path = exported(name, way, dynamic)
    assert opset(path) == way[0]
    found = operators(path)
    listed = documented(NAMES[name], way[1], dynamic)
    if name == "cbam":
        listed.add("BatchNormalization")
    assert found <= listed, f"not listed: {found - listed}"


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_computes_what_torch_computes(exported, name, way, dynamic, runtime):
    model, path = exported(name, way, dynamic)
    check(RUNTIMES[runtime](path), model, name, dynamic)


NETWORK_WAYS = [
    pytest.param((17, False), marks=pytest.mark.slow),
    pytest.param((18, True), marks=pytest.mark.long),  # a minute
]


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("way", NETWORK_WAYS, ids=str)
@pytest.mark.parametrize("name", ["inserted", "mixed"])
def test_a_network_with_inserted_layers_computes_what_torch_computes(exported, name, way, dynamic, runtime):
    """With the layers alone, and with shares as after a training."""
    model, path = exported(name, way, dynamic)
    check(RUNTIMES[runtime](path), model, name, dynamic)


@pytest.mark.slow
def test_shares_add_one_operator(exported, tmp_path):
    _, path = exported("mixed", (17, False), True)
    plain = write(resnet().eval(), images("mixed", *sizes("mixed")[0]), tmp_path / "plain.onnx", 17, False, True)
    layers = documented("EMAM", False, True) | documented("SCAM", False, True)
    assert operators(path) - operators(plain) - layers == {"Where", "BatchNormalization"} - operators(plain)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_with_shares_of_zero_the_file_computes_what_the_plain_network_does(runtime, tmp_path):
    model = build("mixed")
    for name, parameter in model.named_parameters():
        if name.endswith(".share"):
            torch.nn.init.zeros_(parameter)
    run = RUNTIMES[runtime](write(model, images("mixed", 2, 80, 96), tmp_path / "model.onnx", 17, False, True))
    remove_attention(model)
    check(run, model, "mixed", True)
