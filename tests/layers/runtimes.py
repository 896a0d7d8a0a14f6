"""ONNX files of a model, their operators, and what other runtimes than torch compute from them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

SIZES = {0: "batch", 2: "height", 3: "width"}


def write(model: nn.Module, x: Tensor, path: Path, opset: int, dynamo: bool, dynamic: bool) -> Path:
    """Export the model, for inputs of x's size or of any."""
    any_size = {} if not dynamic else {"dynamic_shapes": (SIZES,)} if dynamo else {"dynamic_axes": {"x": SIZES}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one exporter is deprecated, the other warns that it cannot do opset 17
        options = {"input_names": ["x"], "opset_version": opset, "verbose": False}
        torch.onnx.export(model, (x,), path, dynamo=dynamo, **options, **any_size)
    return path


def operators(path: Path) -> set[str]:
    """The operators of a file, all of the default domain, in no function and in no branch of a condition."""
    onnx = pytest.importorskip("onnx", reason="ONNX needs the packages of the extra `export`")
    graph = onnx.load(path)
    nodes = graph.graph.node
    assert not graph.functions and all(not node.domain for node in nodes)
    assert not any(attribute.HasField("g") or attribute.graphs for node in nodes for attribute in node.attribute)
    return {node.op_type for node in nodes}


def opset(path: Path) -> int:
    onnx = pytest.importorskip("onnx", reason="ONNX needs the packages of the extra `export`")
    (imported,) = onnx.load(path, load_external_data=False).opset_import
    return imported.version


def in_onnxruntime(path: Path) -> Callable[[Tensor], Tensor]:
    """What onnxruntime computes from the file, on a CPU."""
    reason = "ONNX needs the packages of the extra `export`"
    session = pytest.importorskip("onnxruntime", reason=reason).InferenceSession(
        path, providers=["CPUExecutionProvider"]
    )
    return lambda x: torch.from_numpy(session.run(None, {"x": x.numpy()})[0])


def in_openvino(path: Path) -> Callable[[Tensor], Tensor]:
    """What OpenVINO computes from the file, in float32: by default it takes bfloat16 on CPUs that have it."""
    openvino = pytest.importorskip("openvino", reason="needs openvino, of the extra `clients`")
    network = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda x: torch.from_numpy(network(x.numpy())[0].copy())


RUNTIMES = {"onnxruntime": in_onnxruntime, "openvino": in_openvino}
