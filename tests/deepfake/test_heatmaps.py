"""Heat maps: gates are what the layers multiply by, Grad-CAM is the textbook's, and the command draws them all."""

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from skimage.data import astronaut

import explain
from deepfake.common.cli import UserError
from deepfake.evaluating.heatmaps import Seen, emam_gates, grad_cam, heat_maps, last_layer, scam_gate
from deepfake.evaluating.picture_grids import Example, grid_figure, heat_figure
from deepfake.evaluating.scoring import to_probabilities
from deepfake.media.video import write_clip
from panet_layers import EMAM, SCAM
from panet_layers.models import PANet
from tests.deepfake.scripts import call_json
from tests.deepfake.tiny_runs import build, save_run


def random_images(count=3, size=64, seed=0):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_emams_gates_times_its_input_are_its_output():
    torch.manual_seed(0)
    layer, x = EMAM(24, groups=4, dtype=torch.float64), torch.randn(2, 24, 5, 7, dtype=torch.float64)
    torch.nn.init.normal_(layer.gn.weight)
    torch.nn.init.normal_(layer.gn.bias)
    gates = emam_gates(layer, x).repeat_interleave(6, dim=1)
    torch.testing.assert_close(gates * x, layer(x))
    assert gates.std() > 0.01


@pytest.mark.parametrize("norm", [None, "batch"])
def test_scams_gate_is_what_its_spatial_half_multiplies_by(norm):
    torch.manual_seed(0)
    layer, x = SCAM(16, 4, spatial_norm=norm, dtype=torch.float64).eval(), torch.randn(2, 16, 9, 6, dtype=torch.float64)
    if norm:
        layer.spatial.bn.running_mean.fill_(0.3)
    torch.testing.assert_close(scam_gate(layer, x) * layer.channel(x), layer(x))


def test_grad_cam_worked_by_hand():
    features = torch.tensor([[[[1.0, 2.0]], [[3.0, 0.0]]]])  # two channels of 1 x 2 pixels
    gradient = torch.tensor([[[[0.4, 0.6]], [[-1.0, -1.0]]]])  # weights 0.5 and -1
    # For "fake": 0.5 * (1, 2) - (3, 0) = (-2.5, 1), so (0, 1); for "real" the opposite, so (1, 0).
    assert grad_cam(features, gradient, torch.tensor([1.0])).flatten().tolist() == [0, 1]
    assert grad_cam(features, gradient, torch.tensor([-1.0])).flatten().tolist() == [1, 0]
    assert grad_cam(features, 0 * gradient, torch.tensor([1.0])).flatten().tolist() == [0, 0]


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ["|difference|", "guided attention", "EMAM's gate", "SCAM's spatial gate", "Grad-CAM"]),
        ({"emam": "final", "scam": "final"}, [..., "EMAM's gate", "SCAM's spatial gate", "Grad-CAM"]),
        ({"emam": "final", "scam": "guided"}, [..., "SCAM's spatial gate", "EMAM's gate", "Grad-CAM"]),
        ({"emam": "fusion", "scam": None}, [..., "EMAM's gate", "Grad-CAM"]),
        ({"emam": None, "scam": None}, ["|difference|", "guided attention", "Grad-CAM"]),
        (None, ["Grad-CAM"]),
    ],
)
def test_every_model_has_the_maps_of_its_parts(options, names):
    torch.manual_seed(0)
    model = (PANet.xception_baseline(variant="tiny") if options is None else PANet(variant="tiny", **options)).eval()
    images = random_images()
    found = heat_maps(model, images)
    with torch.no_grad():
        plain = model(images)
    torch.testing.assert_close(torch.tensor([seen.logit for seen in found]), plain.logits[:, 0])
    np.testing.assert_allclose([seen.image for seen in found], images.permute(0, 2, 3, 1) / 2 + 0.5, atol=1e-6)
    if names[0] is ...:
        names = ["|difference|", "guided attention", *names[1:]]
    assert len(found) == 3
    for i, seen in enumerate(found):
        assert list(seen.maps) == names
        assert (seen.reconstruction is None) == (options is None)
        for values in seen.maps.values():
            assert values.shape == (64, 64)
            assert np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1
        if options is not None:
            difference = (images[i] - plain.reconstruction[i]).abs().mean(0) / 2
            torch.testing.assert_close(torch.from_numpy(seen.maps["|difference|"]), difference)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("options", [{}, {"scam": "common"}, {"emam": "final", "scam": None}, None])
def test_grad_cams_features_are_those_that_are_classified(options):
    torch.manual_seed(0)
    model = (PANet.xception_baseline(variant="tiny") if options is None else PANet(variant="tiny", **options)).eval()
    kept = []
    last_layer(model).register_forward_hook(lambda module, inputs, output: kept.append(output))
    with torch.no_grad():
        logits = model(random_images()).logits
        torch.testing.assert_close(model.classifier(kept[0].mean((2, 3))), logits)


def test_hooks_are_removed_after_an_error():
    model = build("panet").eval()
    with pytest.raises(ValueError, match="at least 64"):
        heat_maps(model, random_images(size=32))
    assert not any(module._forward_hooks for module in model.modules())


def test_a_model_with_more_outputs_is_refused():
    with pytest.raises(UserError, match="2 outputs"):
        heat_maps(PANet(num_classes=2, variant="tiny").eval(), random_images())


@pytest.mark.parametrize("kind", ["panet", "xception"])
def test_the_command_draws_images_and_videos(kind, tmp_path, capsys):
    run, source, out = save_run(tmp_path / "run", build(kind)), tmp_path / "source", tmp_path / "out"
    source.mkdir()
    Image.fromarray(astronaut()).save(source / "face.png")
    write_clip(source / "face.mp4", [astronaut()[:300, 60:420]] * 5, crf=18)
    (source / "none.png").write_bytes(b"no picture")
    code, lines, errors = call_json(explain.main, capsys, run, source, "--out", out, "--frames", 3, "--batch-size", 2)
    assert code == 1
    assert len(errors) == 1 and "none.png" in errors[0]
    assert [line["explained"] for line in lines] == [str(out / f"{n}.explained.png") for n in ("face", "face-2")]
    heights = []
    for line in lines:
        with Image.open(line["explained"]) as picture:
            heights.append(picture.height / picture.width)
    assert heights[0] > 2 * heights[1]  # three rows, one row
    code, again, _ = call_json(explain.main, capsys, run, out, "--out", out)
    assert (code, again) == (1, [])  # its own pictures are no inputs


def test_the_words_of_a_narrow_picture_are_inside():
    image = np.zeros((8, 8, 3), np.float32)
    seen = Seen(image, -1.4, None, {"Grad-CAM": image[..., 0]}, {})
    for figure in (heat_figure([("fake", seen)], "a title"), grid_figure([Example(0, 0.2, seen)] * 2, "a title")):
        FigureCanvasAgg(figure).draw()
        places = [text.get_window_extent() for text in figure.texts]
        assert len(places) == 2 and all(place.x0 >= 0 and place.x1 <= figure.bbox.x1 for place in places)


def test_the_probability_is_predicts(tmp_path, capsys):
    run = save_run(tmp_path / "run", build("panet"))
    Image.fromarray(astronaut()[:120, 160:280]).save(tmp_path / "face.png")
    _, (line,), _ = call_json(explain.main, capsys, run, tmp_path / "face.png", "--out", tmp_path, "--crop", "none")
    pixels = torch.from_numpy(np.array(Image.open(tmp_path / "face.png").resize((64, 64), Image.Resampling.BICUBIC)))
    (seen,) = heat_maps(build("panet").eval(), pixels.permute(2, 0, 1)[None] / 127.5 - 1)
    assert line["fake_probability"] == pytest.approx(to_probabilities(np.array([seen.logit]))[0], abs=1e-6)
    assert line["prediction"] == ("fake" if line["fake_probability"] >= 0.5 else "real")


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (["{0}", "{0}"], "--out", 2),
        (["{0}/nowhere", "{0}", "--out", "{0}/out"], "nowhere does not exist", 2),
        (["{0}", "{0}", "--out", "{0}/out", "--frames", "0"], "'0'", 2),
    ],
)
def test_bad_arguments_give_one_line(arguments, words, code, tmp_path, capsys):
    found, lines, errors = call_json(explain.main, capsys, *(text.format(tmp_path) for text in arguments))
    assert (found, lines, len(errors)) == (code, [], 1)
    assert words in errors[0]
    assert not (tmp_path / "out").exists()


def test_damaged_weights_explain_nothing(tmp_path, capsys):
    model = build("panet")
    torch.nn.init.constant_(model.classifier.bias, float("nan"))
    Image.fromarray(astronaut()).save(tmp_path / "face.png")
    code, lines, errors = call_json(
        explain.main, capsys, save_run(tmp_path / "run", model), tmp_path / "face.png", "--out", tmp_path
    )
    assert (code, lines) == (1, []) and "not finite" in errors[0]
    assert not list(tmp_path.glob("*.explained.png"))
    assert last_layer(model) is model.scam
