"""export.py: an ONNX file that gives predict.py's probability to whoever follows its metadata."""

import json
import logging
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import astronaut

import export
import predict
from deepfake.common import cli
from deepfake.common.cli import UserError
from panet_layers.models import PANet
from tests.deepfake.tiny_runs import build, save_run

reason = "ONNX needs the packages of the extra `export`"
onnxruntime = pytest.importorskip("onnxruntime", reason=reason)
pytest.importorskip("onnxscript", reason=reason)


@pytest.mark.slow
def test_probability_is_predicts(tmp_path, capsys, caplog):
    caplog.set_level(logging.ERROR)
    run = save_run(tmp_path / "run", build("panet"))
    export.main([str(run)])
    assert "model.onnx" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(run / "model.onnx", providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    assert set(export.PROCESSING) < set(metadata) and json.loads(metadata["config"]) == build("panet").config

    size = int(metadata["image_size"])
    crop = Image.fromarray(astronaut()[:200, 100:300])
    crop.save(tmp_path / "crop.png")
    pixels = np.asarray(crop.resize((size, size), Image.Resampling.BICUBIC), np.float32)
    images = (pixels / 127.5 - 1).transpose(2, 0, 1)[None]
    (logits,) = session.run(None, {"images": images})
    predict.main([str(run), str(tmp_path / "crop.png"), "--crop", "none"])
    expected = json.loads(capsys.readouterr().out)["fake_probability"]
    assert 1 / (1 + np.exp(-logits.item())) == pytest.approx(expected, abs=1e-5)

    others = np.random.default_rng(0).uniform(-1, 1, (3, 3, 97, 130)).astype(np.float32)
    (logits,) = session.run(None, {"images": others})
    with torch.no_grad():
        expected = build("panet").eval()(torch.from_numpy(others)).logits.numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_missing_packages_are_named_in_one_line(tmp_path, capsys, monkeypatch):
    run = save_run(tmp_path / "run", build("panet"))
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(SystemExit) as exit:
        cli.run(lambda: export.main([str(run)]))
    errors = capsys.readouterr().err.splitlines()
    assert exit.value.code == 2 and len(errors) == 1 and "pip install" in errors[0]
    assert not (run / "model.onnx").exists()


def test_a_model_with_more_outputs_is_refused(tmp_path):
    PANet(num_classes=2, variant="tiny").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="2 outputs") as caught:
        export.export(tmp_path, tmp_path / "model.onnx")
    assert caught.value.exit_code == 2


def test_a_run_that_is_not_there(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit:
        cli.run(lambda: export.main([str(tmp_path / "nowhere")]))
    assert exit.value.code == 2 and "nowhere does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("out", ["", "missing/model.onnx"])
def test_an_output_that_cannot_be_is_refused_before_the_export(out, run, tmp_path):
    with pytest.raises(UserError, match="wanted a file in a folder that exists") as caught:
        export.main([str(run), "--out", str(tmp_path / out)])
    assert caught.value.exit_code == 2
