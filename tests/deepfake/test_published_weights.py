"""evaluate.py --recce-weights and --xception-weights: published checkpoints, in their layouts, as their code scores."""

import csv
import pickle

import cv2
import numpy as np
import pytest
import torch

import evaluate
from deepfake.common.cli import UserError
from deepfake.common.texts import read_json
from deepfake.data import open_split
from deepfake.dataset.resizing import bicubic_square, bilinear_square
from deepfake.training import published
from deepfake.training.published import load_published
from panet_layers.checkpoints import recce_state_dict, xception_state_dict
from panet_layers.models import PANet
from tests.deepfake.scripts import call
from tests.deepfake.tiny_runs import save_images
from tests.models.by_name import RECCE_SHAPES, bench_xception_shapes, random_state

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A test split of a real and a fake image of 80 x 80."""
    return save_images(tmp_path_factory.mktemp("data") / "faces", splits=("test",), people=1, frames=1)


@pytest.fixture(scope="module")
def recce():
    return calmed(random_state(RECCE_SHAPES))


@pytest.fixture(scope="module")
def xception():
    return calmed(random_state(bench_xception_shapes()))


def calmed(state):
    """With logits near 1: random weights alone let the features grow from block to block, to some 100,000."""
    return {name: 4 * value if name.endswith("running_var") else value for name, value in state.items()}


def two_logits(recce):
    torch.manual_seed(1)
    return {**recce, "fc.weight": torch.randn(2, 2048) / 30, "fc.bias": torch.randn(2)}


def bench_recce(state):
    """DeepfakeBench's layout, with the Xception that its RECCE stores and does not use, and DDP's prefix."""
    backbone = {f"module.backbone.{name}": torch.zeros(shape) for name, shape in bench_xception_shapes().items()}
    return backbone | {f"module.model.{name}": value for name, value in state.items()}


def saved(path, state):
    torch.save(state, path)
    return path


def scores_of(network, file, folder, out):
    """The scores that evaluate.py lists, and what it says of them."""
    options = ["--data", folder, "--out", out, "--resamples", "0", "--workers", "0"]
    evaluate.main(list(map(str, [f"--{network}-weights", file, *options])))
    with open(out / "scores.csv", newline="") as listed:
        return [float(row["fake_probability"]) for row in csv.DictReader(listed)], read_json(out / "metrics.json")


def pixels_of(folder, size, interpolation):
    """The images as published code reads them: OpenCV's pixels, in [-1, 1]."""
    names = open_split(str(folder), "test", 64).names
    read = [cv2.cvtColor(cv2.imread(str(folder / name)), cv2.COLOR_BGR2RGB) for name in names]
    resized = np.stack([cv2.resize(image, (size, size), interpolation=interpolation) for image in read])
    return (torch.from_numpy(resized).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5


@pytest.mark.parametrize("logits", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_published_recce_has_the_logit_of_fake_and_the_size_of_its_code(logits, recce, tmp_path):
    state = recce if logits == 1 else two_logits(recce)
    stored = {"model": recce, "step": 9} if logits == 1 else bench_recce(state)
    model, code, about = load_published(saved(tmp_path / "file.pth", stored), "recce", CPU)
    assert (code, code.image_size) == ((published.RECCES, 299) if logits == 1 else (published.DEEPFAKEBENCH, 256))
    assert about["unused"] == (2 if logits == 1 else 2 + len(bench_xception_shapes()))
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    ours = PANet(logits, emam=None, scam=None).eval()
    ours.load_state_dict(recce_state_dict(state).state_dict)
    with torch.inference_mode():
        found, expected = model(images).logits[:, 0], ours(images).logits
    torch.testing.assert_close(found, expected[:, 0] if logits == 1 else expected[:, 1] - expected[:, 0])


@pytest.mark.slow
def test_recces_own_checkpoint(recce, folder, tmp_path, capsys):
    trainers = {"step": 9, "best_metric": torch.tensor(0.9), "model": recce, "optimizer": {"state": {}}}
    scores, metrics = scores_of("recce", saved(tmp_path / "best_model_9.bin", trainers), folder, tmp_path / "out")
    model = PANet(emam=None, scam=None).eval()
    model.load_state_dict(recce_state_dict(recce).state_dict)
    with torch.no_grad():
        expected = model(pixels_of(folder, 299, cv2.INTER_LINEAR)).logits[:, 0].double().sigmoid()
    assert scores == pytest.approx(expected.tolist(), abs=1e-6) and abs(scores[0] - scores[1]) > 0.001
    assert (metrics["model"], metrics["image_size"]) == ("RECCE, published weights", 299)
    assert (metrics["frame"]["n_real"], metrics["frame"]["n_fake"], metrics["checkpoint_epoch"]) == (1, 1, None)
    assert metrics["weights"] == {
        "file": str(tmp_path / "best_model_9.bin"),
        "sha256": published.digest_of(tmp_path / "best_model_9.bin"),
        "network": "recce",
        "code": "RECCE",
        "unused": 2,
    }
    printed = capsys.readouterr().out
    assert "in the layout of RECCE, so 299 x 299" in printed and "RECCE, published weights on faces (test)" in printed
    assert all((tmp_path / "out" / name).is_file() for name in ("roc.png", "scores.png", "grid.png"))


@pytest.mark.slow
def test_deepfakebenchs_recce(recce, folder, tmp_path):
    state = two_logits(recce)
    file = saved(tmp_path / "recce_best.pth", bench_recce(state))
    scores, metrics = scores_of("recce", file, folder, tmp_path / "out")
    model = PANet(2, emam=None, scam=None).eval()
    model.load_state_dict(recce_state_dict(state).state_dict)
    with torch.no_grad():
        expected = model(pixels_of(folder, 256, cv2.INTER_CUBIC)).logits.double().softmax(1)[:, 1]
    assert scores == pytest.approx(expected.tolist(), abs=1e-6) and abs(scores[0] - scores[1]) > 0.001
    assert (metrics["weights"]["code"], metrics["image_size"]) == ("DeepfakeBench", 256)
    assert metrics["weights"]["unused"] == 2 + len(bench_xception_shapes())


@pytest.mark.slow
def test_deepfakebenchs_xception(xception, folder, tmp_path):
    file = saved(tmp_path / "xception_best.pth", {f"backbone.{name}": value for name, value in xception.items()})
    scores, metrics = scores_of("xception", file, folder, tmp_path / "out")
    model = PANet.xception_baseline(2).eval()
    model.load_state_dict(xception_state_dict(xception).state_dict)
    with torch.no_grad():
        expected = model(pixels_of(folder, 256, cv2.INTER_CUBIC)).logits.double().softmax(1)[:, 1]
    assert scores == pytest.approx(expected.tolist(), abs=1e-6) and abs(scores[0] - scores[1]) > 0.001
    assert (metrics["model"], metrics["weights"]["code"]) == ("Xception, published weights", "DeepfakeBench")


@pytest.mark.parametrize("resize", [bilinear_square, bicubic_square])
def test_other_resizings_cut_the_central_square_and_do_not_antialias(resize):
    lines = np.zeros((120, 200, 3), np.uint8)
    lines[:, 40:160:2] = 255  # every second column, inside the square
    lines[:, :40] = lines[:, 160:] = 90
    found = resize(lines, 40)
    assert found.shape == (40, 40, 3) and 90 not in found
    assert set(np.unique(found)) <= {0, 255}, "a filter would average a third of the columns"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"fc.bias": torch.tensor([float("nan")])},
            "1 tensors hold numbers of another kind, NaN, or negative variances (classifier.bias)",
        ),
        (
            {"fc.bias": torch.tensor([1])},
            "1 tensors hold numbers of another kind, NaN, or negative variances (classifier.bias)",
        ),
        ({"fc.weight": torch.zeros(1, 2048, dtype=torch.float8_e4m3fn)}, "1 tensors hold numbers of another kind"),
        ({"encoder.bn1.running_var": -torch.ones(32)}, "negative variances (encoder.bn1.running_var)"),
        ({"fc.weight": torch.zeros(0, 2048), "fc.bias": torch.zeros(0)}, "0 logits (wanted 1, of fake, or 2"),
        ({"fc.bias": None, "decoder6.0.weight": None}, "2 missing ("),
        ({"ema.decay": torch.tensor(0.9)}, "1 unknown (ema.decay)"),
        ({"fc.weight": torch.zeros(1, 7)}, "fc.weight (1, 7) instead of (1, 2048)"),
        ({"fc.weight": torch.zeros(3, 2048), "fc.bias": torch.zeros(3)}, "3 logits (wanted 1, of fake, or 2"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_one_line(change, words, recce, folder, tmp_path, capsys):
    changed = {name: value for name, value in {**recce, **change}.items() if value is not None}
    file = saved(tmp_path / "changed.pth", changed)
    arguments = ["--recce-weights", file, "--data", folder, "--out", tmp_path / "out"]
    code, _, errors = call(evaluate.main, capsys, *arguments)
    assert code == 2 and len(errors) == 1 and errors[0].startswith(f"error: {file}: ") and words in errors[0]
    assert not (tmp_path / "out").exists()


def test_files_that_are_no_checkpoint_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load_published(tmp_path / "gone.pth", "recce", CPU)
    (tmp_path / "code.pth").write_bytes(pickle.dumps(evaluate.main, protocol=2))
    with pytest.raises(UserError, match=r"code\.pth (refused|is damaged)"):
        load_published(tmp_path / "code.pth", "recce", CPU)
    with pytest.raises(
        UserError, match=r"numpy\.bin refused: .* holds code; if you trust who made it, store its state_dict"
    ):
        load_published(saved(tmp_path / "numpy.bin", {"best_metric": np.float64(0.9), "model": {}}), "recce", CPU)
    with pytest.raises(UserError, match=r"list\.pth: holds a list \(wanted a state_dict"):
        load_published(saved(tmp_path / "list.pth", [1]), "xception", CPU)
    with pytest.raises(UserError, match=r"none\.pth: .* missing"):
        load_published(saved(tmp_path / "none.pth", {"model": {}}), "xception", CPU)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "d"], "give a RUN, or --recce-weights or --xception-weights FILE"),
        (["run", "--recce-weights", "f", "--data", "d", "--out", "o"], "--recce-weights takes no RUN"),
        (["--xception-weights", "f", "--data", "d", "e", "--out", "o"], "one folder after --data"),
        (["--xception-weights", "f", "--data", "d"], "needs --out"),
        (["--xception-weights", "f", "--recce-weights", "f", "--data", "d"], "not allowed with argument"),
    ],
)
def test_options_that_do_not_go_together(arguments, words, capsys):
    code, _, errors = call(evaluate.main, capsys, *arguments)
    assert code == 2 and len(errors) == 1 and words in errors[0]
