"""Checks of a YOLO that the command line trained from a YAML, in a process that has not called `register`.

python tests/insertion/check_yaml.py FOLDER    # of test_ultralytics.py
"""

import copy
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import torch
from ultralytics import YOLO
from ultralytics.nn import tasks
from ultralytics.nn.modules import CBAM

from panet_layers import EMAM, SCAM, replace_attention
from panet_layers.integrations.ultralytics import register

folder = Path(sys.argv[1])
best, unfinished = (folder / f"run/weights/{name}.pt" for name in ("best", "epoch0"))
data, picture = str(folder / "data.yaml"), str(folder / "images/bus.jpg")
small = {"imgsz": 64, "device": "cpu", "verbose": False}
X = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def layers(model):
    return [type(module) for module in model.modules() if isinstance(module, (EMAM, SCAM))]


# A checkpoint loads in a process that has not registered the names, and registers them.
assert not hasattr(tasks, "EMAM")
model = YOLO(best)
network = model.model.float().eval()
assert layers(network) == [EMAM, SCAM] and hasattr(tasks, "EMAM")
assert (network.model[2].channels, network.model[4].channels) == (32, 64)
assert network.model[2].groups == 8 and network.model[4].channel.fc1.out_features == 8
assert layers(copy.deepcopy(network)) == [EMAM, SCAM]

# Fused, it computes the same; val and predict run.
with torch.no_grad():
    expected = network(X)[0]
    torch.testing.assert_close(copy.deepcopy(network).fuse(verbose=False)(X)[0], expected, rtol=1e-4, atol=1e-4)
assert YOLO(best).val(data=data, workers=0, plots=False, project=str(folder), name="val", **small).box.map is not None
options = {"conf": 1e-4, "iou": 0.99, "save": False, **small}


def detections(model):
    """Boxes as shares of the picture's width and height, scores, classes."""
    boxes = model.predict(picture, **options)[0].boxes
    return torch.cat([boxes.xyxyn, boxes.conf[:, None], boxes.cls[:, None]], 1)


found = detections(YOLO(best))
assert len(found)


def check_detections(exported):
    again = detections(YOLO(exported, task="detect"))
    apart = torch.cdist(again, found, p=float("inf"))  # equal scores come in any order
    assert again.shape == found.shape and max(apart.amin(0).max(), apart.amin(1).max()) < 1e-4, (exported, apart)


class InFloat32(openvino.Core):
    """OpenVINO takes bfloat16 by default on processors that have it, and ultralytics has no option for it."""

    def compile_model(self, *args, config=None, **kwargs):
        return super().compile_model(*args, config={**(config or {}), "INFERENCE_PRECISION_HINT": "f32"}, **kwargs)


# ONNX and OpenVINO: the same outputs, and the same detections.
exported = YOLO(best).export(format="onnx", imgsz=64, device="cpu", opset=17, simplify=False)
(out,) = onnxruntime.InferenceSession(exported).run(None, {"images": X.numpy()})
torch.testing.assert_close(torch.from_numpy(np.asarray(out)), expected, rtol=1e-4, atol=1e-4)
check_detections(exported)
exported = YOLO(best).export(format="openvino", imgsz=64, device="cpu")
openvino.Core = InFloat32
out = openvino.Core().compile_model(next(Path(exported).glob("*.xml")), "CPU")(X.numpy())[0]
torch.testing.assert_close(torch.from_numpy(out), expected, rtol=1e-4, atol=1e-4)
check_detections(exported)

# A training goes on from its last epoch, in a network built from the YAML again.
resumed = YOLO(unfinished)
resumed.train(resume=True)
assert resumed.trainer.epoch == 1 and layers(resumed.trainer.model) == [EMAM, SCAM]

# The width of a scale, and rows that are refused.
wide = tasks.DetectionModel(str(folder / "yolo11s-emam.yaml"), verbose=False)
assert (wide.model[2].channels, wide.model[4].channels) == (64, 128)
register()
description = tasks.yaml_model_load(folder / "yolo11s-emam.yaml")
for row, message in [
    ([-1, 1, "EMAM", [4, 2]], "takes no argument or one number, groups, got [4, 2]"),
    ([[-1, 1], 1, "SCAM", []], "takes the output of one row, got from=[-1, 1]"),
    ([-1, 1, "SCAM", ["ch"]], "takes no argument or one number, reduction, got ['ch']"),
    ([-1, 1, "EMAM", [7]], "row 2 of the model, EMAM: groups=7 does not divide channels=64"),
]:
    wrong = copy.deepcopy(description)
    wrong["backbone"][2] = row
    try:
        tasks.DetectionModel(wrong, verbose=False)
    except ValueError as error:
        assert message in str(error), error
    else:
        raise AssertionError(message)
several = copy.deepcopy(description)
several["backbone"][2] = [-1, 4, "EMAM", []]
assert layers(tasks.DetectionModel(several, verbose=False)) == [EMAM, EMAM, SCAM]  # depth 0.5

# ultralytics' own CBAM computes something else.
report = replace_attention(torch.nn.Sequential(CBAM(16)))
assert not report.swapped and "no max path" in report.left[0].reason, report
print("all checks passed")
