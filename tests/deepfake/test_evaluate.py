"""evaluate.py: figures are those of the scores it lists, words say what they compare to, errors are one line."""

import csv

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

import evaluate
from deepfake.common import cli
from deepfake.common.cli import UserError
from deepfake.common.files import write_json
from deepfake.common.texts import read_json
from deepfake.data import open_split
from deepfake.dataset.images import to_unit_range
from deepfake.evaluating import plots, summary_table
from deepfake.evaluating.bootstrap import evaluate_with_intervals
from deepfake.evaluating.evaluation import results_folder
from deepfake.evaluating.picture_grids import choose_examples
from deepfake.evaluating.scoring import score_logits, to_probabilities
from deepfake.evaluating.summary_table import report
from deepfake.sources import ffpp
from panet_layers.models import PANetOutput
from tests.deepfake.scripts import evaluated
from tests.deepfake.tiny_runs import build, save_images, save_run

PICTURES = ("roc.png", "scores.png", "grid.png")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_images(tmp_path_factory.mktemp("data") / "faces")


class Brightness(nn.Module):
    """Calls bright images fake: on our folder, always right."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(20.0))
        self.encoder = nn.Identity()

    def forward(self, images):
        return PANetOutput(self.scale * self.encoder(images).mean((1, 2, 3))[:, None], None, ())


def read_scores(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_metrics_are_those_of_the_listed_scores(run, folder, tmp_path, capsys):
    evaluate.main([str(run), "--data", str(folder), "--out", str(tmp_path / "out")])
    written = read_json(tmp_path / "out" / "metrics.json")
    rows = read_scores(tmp_path / "out" / "scores.csv")

    images = open_split(str(folder), "test", 64)
    assert [row["name"] for row in rows] == images.names
    assert [int(row["label"]) for row in rows] == images.labels.tolist()
    scores = [float(row["fake_probability"]) for row in rows]
    with torch.no_grad():
        pixels = torch.stack([images[i][0] for i in range(len(images))])
        expected = build("panet").eval()(to_unit_range(pixels)).logits[:, 0].double().sigmoid()
    assert scores == pytest.approx(expected.tolist(), abs=1e-6)
    assert [row["prediction"] for row in rows] == ["fake" if s >= 0.5 else "real" for s in scores]

    again = evaluate_with_intervals([row["video"] for row in rows], images.labels, scores)
    assert {name: written[name] for name in ("frame", "video")} == again
    assert written["methods"] == {"swap": again}
    assert written["bootstrap"] == {"resamples": 1000, "seed": 0, "by": "video"}
    assert (written["frame"]["n_real"], written["frame"]["n_fake"]) == (6, 6)
    assert (written["video"]["n_real"], written["video"]["n_fake"]) == (3, 3)
    assert written["checkpoint_epoch"] == 3
    assert written["model"] == "PANet tiny"
    assert (written["split"], written["image_size"], written["always_fake_acc"]) == ("test", 64, 0.5)
    assert (written["description"], written["fingerprint"]) == (images.description, images.fingerprint)
    assert written["trivial_baseline_auc"] == 1.0  # brightness alone tells these classes apart
    for picture in PICTURES:
        with Image.open(tmp_path / "out" / picture) as image:
            image.verify()
    printed = capsys.readouterr().out
    assert "NOT FF++" in printed
    assert f"{100 * written['frame']['auc']:.2f}" in printed


def test_a_detector_that_is_always_right(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "load_run", lambda *_: (Brightness(), {"model": {}, "image_size": 64}))
    metrics = evaluated(tmp_path, folder, tmp_path / "out")
    for level in ("frame", "video"):
        assert {k: metrics[level][k] for k in ("acc", "balanced_acc", "auc", "ap")} == dict.fromkeys(
            ("acc", "balanced_acc", "auc", "ap"), 1.0
        )
        assert metrics[level]["eer"] == 0


@pytest.mark.parametrize(("kind", "name"), [("recce", "RECCE tiny"), ("xception", "Xception tiny")])
def test_the_papers_other_models(kind, name, folder, tmp_path):
    run = save_run(tmp_path / kind, build(kind))
    evaluate.main([str(run), "--data", str(folder), "--batch-size", "5"])
    out = run / "faces-test"
    assert read_json(out / "metrics.json")["model"] == name
    with Image.open(out / "grid.png") as grid:  # four rows of pictures, or the inputs alone
        assert (grid.height > grid.width / 2) == (kind == "recce")


@pytest.mark.parametrize("options", [{"amp": "bf16"}, {"batch_size": 1}, {"workers": 2}])
def test_options_of_speed_change_rounding_only(options, run, folder):
    images, model = open_split(str(folder), "test", 64), build("panet").eval()
    plain = to_probabilities(score_logits(model, images, torch.device("cpu"), 32))
    logits = score_logits(model, images, torch.device("cpu"), **{"batch_size": 32, **options})
    assert to_probabilities(logits) == pytest.approx(plain, abs=0.02 if "amp" in options else 1e-6)


def test_without_a_training_split_there_is_no_trivial_baseline(run, tmp_path, capsys):
    folder = save_images(tmp_path / "tests_only", splits=("test",))
    metrics = evaluated(run, folder, tmp_path / "out")
    assert metrics["trivial_baseline_auc"] is None
    assert "no trivial baseline" in capsys.readouterr().out


NO_GROUPS = {"threshold_from_val": None, "at_threshold": {"0.5": None, "from_val": None}, "lightness": None}


FFPP_TEST = {"/".join(video) for video in ffpp.official_test()}


def table(data, videos=FFPP_TEST, split="test"):
    level = {"acc": 0.9, "balanced_acc": 0.8, "auc": 0.95, "ap": 0.97, "eer": 0.1}
    level |= {"n_real": 140, "n_fake": 560}
    metrics = {"model": "PANet paper", "data": data, "split": split, "checkpoint_epoch": 1, "description": "these"}
    metrics |= {"trivial_baseline_auc": 0.61, "always_fake_acc": 0.8, "frame": level, "video": level}
    return report(metrics | NO_GROUPS, videos)


def test_the_table_says_what_it_compares_to():
    assert "DEMONSTRATION" in table("demo")
    assert "do not compare" in table("somewhere", {f"{video}x" for video in FFPP_TEST})  # as many, by other names
    assert "do not compare" in table("somewhere", {video for video in FFPP_TEST if "real" in video})
    assert "do not compare" in table("somewhere", split="val")
    compared = table("ffpp")
    assert "NOT" not in compared
    assert "preparation" in compared
    for figure in ("97.26", "99.37", "91.37", "94.90", "97.06", "96.30", "61.00", "80.00"):
        assert figure in compared


def test_the_columns_of_the_table_stand_apart():
    level = dict.fromkeys(summary_table.FIGURES, 1.0) | {"n_real": 3, "n_fake": 3}
    level["ci95"] = {name: [1.0, 1.0] for name in summary_table.FIGURES}
    metrics = {"model": "PANet tiny", "data": "faces", "split": "test", "checkpoint_epoch": None, "description": ""}
    metrics |= {"trivial_baseline_auc": None, "always_fake_acc": 0.5, "bootstrap": {"resamples": 9}}
    metrics |= NO_GROUPS | {"frame": level, "video": level}
    assert "[100.0, 100.0] [100.0, 100.0]" in report(metrics, {"real/1", "swap/2"})


@given(st.lists(st.tuples(st.integers(0, 1), st.floats(0, 1)), min_size=1, max_size=60))
def test_the_grid_shows_both_classes_and_some_mistakes(cases):
    labels, scores = np.array([c[0] for c in cases]), np.array([c[1] for c in cases])
    chosen = choose_examples(labels, scores)
    assert len(set(chosen)) == len(chosen)
    wrong = (scores >= 0.5) != labels
    for label in (0, 1):
        of_class = [i for i in chosen if labels[i] == label]
        assert len(of_class) == min(4, (labels == label).sum())
        mistakes = wrong[labels == label].sum()
        assert wrong[of_class].sum() >= min(2, mistakes)
        assert (~wrong)[of_class].sum() >= min(2, (labels == label).sum() - mistakes)
        assert wrong[of_class].tolist() == sorted(wrong[of_class])
    assert labels[chosen].tolist() == sorted(labels[chosen])


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (["{tmp}/nowhere", "--data", "{data}"], "nowhere does not exist", 2),
        (["{run}", "--data", "{tmp}/nowhere"], "nowhere", 2),
        (["{run}", "--data", "{data}", "--split", "val"], "val split is empty", 2),
        (["{run}", "--data", "{data}", "--split", "dev"], "'dev'", 2),
        (["{run}", "--data", "{data}", "--device", "toaster"], "--device toaster", 2),
        (["{run}", "--data", "{data}", "--batch-size", "0"], "'0'", 2),
        (["{run}", "--data", "{data}", "--out", "{data}/manifest.jsonl"], "manifest.jsonl", 2),
        (["{run}"], "--data", 2),
    ],
)
def test_bad_arguments_give_one_line(arguments, words, code, run, folder, tmp_path, capsys):
    arguments = [text.format(run=run, data=folder, tmp=tmp_path) for text in arguments]
    with pytest.raises(SystemExit) as exit:
        cli.run(lambda: evaluate.main(arguments))
    error = capsys.readouterr().err
    assert exit.value.code == code
    assert error.startswith("error: ") and error.count("\n") == 1
    assert words in error


def test_one_class_only(run, tmp_path):
    folder = save_images(tmp_path / "faces")
    lines = (folder / "manifest.jsonl").read_text().splitlines(keepends=True)
    (folder / "manifest.jsonl").write_text("".join(line for line in lines if '"label": 1' in line))
    with pytest.raises(UserError, match="no real"):
        evaluated(run, folder, tmp_path / "out")


def test_an_unreadable_image_is_named_and_nothing_is_written(run, tmp_path):
    folder = save_images(tmp_path / "faces")
    image = folder / "test_swap_1_0.png"
    image.write_bytes(image.read_bytes()[:200])
    with pytest.raises(UserError, match=r"test_swap_1_0\.png"):
        evaluated(run, folder, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*"))


def test_damaged_weights_are_no_score(folder, tmp_path):
    model = build("panet")
    with torch.no_grad():
        model.classifier.bias.fill_(float("nan"))
    run = save_run(tmp_path / "nan", model)
    with pytest.raises(UserError, match=r"test_real_0_0\.png: the model's score is not finite"):
        evaluated(run, folder, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["price$x_{$", "odd\udcff", "\u9854"])
def test_any_folder_name_can_be_a_title(tmp_path, name):
    labels, scores = np.array([0, 1]), np.array([0.2, 0.7])
    plots.save_figure(plots.score_figure(labels, scores, name), tmp_path / "scores.png")
    assert (tmp_path / "scores.png").stat().st_size > 1000


def test_results_of_folders_of_one_name_are_kept_apart(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("a/crops", "b/crops", "demo"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        save_images(tmp_path / name)
    copied = save_run(tmp_path / "run", build("panet"))
    for name, folder in (("a/crops", "crops-test"), ("./demo", "demo-test")):
        assert results_folder(copied, name) == copied / folder
        (copied / folder).mkdir()
        write_json(copied / folder / "metrics.json", {"data": name})
    evaluate.main([str(copied), "--data", "b/crops", "--resamples", "0"])
    assert f"to {copied / 'b-crops-test'}" in capsys.readouterr().out
    assert read_json(copied / "b-crops-test/metrics.json")["data"] == "b/crops"
    for name, folder in (("b/crops", "b-crops-test"), (str(tmp_path / "a/crops"), "crops-test")):
        assert results_folder(copied, name) == copied / folder, "its own are written again"
    with pytest.raises(UserError, match=r"demo-test: holds the results of other data; .*--out"):
        results_folder(copied, "demo")
    (tmp_path / "b").rename(tmp_path / "c")
    assert results_folder(copied, "c/crops") == copied / "c-crops-test"
    (tmp_path / "a").rename(tmp_path / "d")
    assert results_folder(copied, "d/crops") == copied / "crops-test", "moved data keep their results"
