"""reproduce.py: its plan, how steps run and go on, Table I's arithmetic, and what the report may claim."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path

import pytest
from prepare_for_tests import save_tree

import ffpp
import reproduce
import reproduction_report
import steps
from cli import UserError
from steps import Step
from table_one import Cell, Result, cell, gains, is_ffpp, paper_figure

TINY = ["--train", "--variant tiny --epochs 1 --batch-size 4 --workers 0 --threads 1"]
TINY += ["--prepare", "--size 64 --workers 1 --methods Deepfakes FaceSwap", "--compressions", "c23"]


# --- steps


def script(folder: Path, body: str) -> str:
    (folder / "step.py").write_text(body)
    return str(folder / "step.py")


def test_a_step_is_run_once(tmp_path):
    result = tmp_path / "result"
    name = script(tmp_path, "import sys; open(sys.argv[1], 'a').write('x')")
    for _ in range(2):
        steps.run_steps([Step("one", name, (str(result),), done=result.is_file)])
    assert result.read_text() == "x"


def test_a_step_that_was_begun_is_resumed(tmp_path):
    begun = tmp_path / "config.json"
    step = Step("one", "train.py", ("--out", "x"), done=lambda: False, begun=begun)
    assert "--resume" not in step.command()
    begun.touch()
    assert step.command()[-1] == "--resume"


def test_several_processes_run_under_torchrun():
    command = Step("one", "train.py", (), done=lambda: False, processes=3).command()
    assert command[:2] == ["-m", "torch.distributed.run"] and "--nproc-per-node=3" in command


def test_a_failure_names_the_step(tmp_path):
    name = script(tmp_path, "import sys; sys.exit(3)")
    with pytest.raises(UserError, match=r"step 'one' ended with exit code 3"):
        steps.run_steps([Step("one", name, (), done=lambda: False)])


def test_a_step_out_of_turn_names_what_it_needs(tmp_path):
    step = Step("two", "train.py", (), done=lambda: False, needs=(tmp_path / "manifest.jsonl",))
    with pytest.raises(UserError, match=r"'two' needs .*manifest.jsonl"):
        steps.run_step([step], 1)
    with pytest.raises(UserError, match=r"--step 2: the plan has the steps 1 to 1"):
        steps.run_step([step], 2)


# --- plan


def test_the_plan_prepares_then_trains_then_evaluates(tmp_path, capsys):
    tree = save_tree(tmp_path / "tree")
    reproduce.main([str(tree), str(tmp_path / "out"), "--seeds", "2", "--plan", "--no-estimate", *TINY])
    lines = capsys.readouterr().out.splitlines()
    kinds = [line.split()[1] for line in lines]
    assert kinds == ["prepare"] + ["train"] * 6 + ["evaluate"] * 6
    assert not (tmp_path / "out").exists()
    assert sum("--model recce --seed 1" in line for line in lines) == 1


def test_the_plan_tells_time_and_room(tmp_path, capsys):
    tree = save_tree(tmp_path / "tree")
    reproduce.main([str(tree), str(tmp_path / "out"), "--seeds", "1", "--plan", *TINY])
    out = capsys.readouterr().out
    assert re.search(r"prepare c23: about [\d.]+ (s|min), [\d.]+ MB", out)
    assert re.search(r"train panet once: about \d", out) and re.search(r"evaluate recce once: about \d", out)
    assert re.search(r"left: about .+ here, .+ of crops", out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train", "--seed 3"], "--train takes no --seed"),
        (["--train", "--model panet"], "--train takes no --model"),
        (["--train", "--epochs 2 --resume"], "--train takes no --resume"),
        (["--prepare", "--methods Deepfakes FaceSwap --comp c40"], "--prepare takes no --compression"),
        (["--train", "--epochs none"], "--epochs"),
        (["--train", "'unclosed"], "No closing quotation"),
        (["--seeds", "0"], "--seeds"),
        (["--compressions", "c99"], "c99"),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    tree = save_tree(tmp_path / "tree")
    with pytest.raises(UserError, match=message) as error:
        reproduce.main([str(tree), str(tmp_path / "out"), *TINY, *arguments])
    assert error.value.exit_code == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_from_videos_to_the_report(tmp_path, capfd):
    tree = save_tree(tmp_path / "tree")
    command = [str(tree), str(tmp_path / "out"), "--seeds", "1", "--models", "recce", "panet", *TINY]
    reproduce.main([*command, "--step", "1"])
    with pytest.raises(UserError, match=r"evaluate c23 recce seed 0.* needs"):
        reproduce.main([*command, "--step", "4"])
    reproduce.main([*command, "--no-estimate"])
    report = (tmp_path / "out" / "report" / "report.md").read_text()
    assert "not FaceForensics++'s whole test split" in report and "| PANet |" in report
    capfd.readouterr()
    reproduce.main([*command, "--no-estimate"])
    assert capfd.readouterr().out.count("done already") == 5
    with pytest.raises(UserError, match="made with another train") as error:
        reproduce.main([*command, "--no-estimate", "--train", "--variant tiny --epochs 2 --batch-size 4"])
    assert error.value.exit_code == 2


# --- table


def test_mean_spread_and_verdict():
    values = Cell((96.0, 97.0, 98.0), paper=97.26)
    assert (values.mean, values.spread) == (97.0, 1.0)
    assert str(values) == "97.00 ± 1.00" and values.verdict() == "-0.26, within ±4.97"
    assert Cell((96.9, 97.0, 97.1), paper=99.0).verdict() == "-2.00, outside ±0.50"
    assert values.interval == pytest.approx(4.3027 / math.sqrt(3), rel=1e-4)
    one = Cell((97.0,), paper=97.26)
    assert one.spread is None and one.verdict() == "-0.26, one seed: no spread to judge by"


@pytest.mark.parametrize(
    ("model", "compression", "metric", "figure"),
    [
        ("xception", "c23", "acc", 95.73), ("xception", "c23", "auc", 96.30),
        ("xception", "c40", "acc", 86.86), ("xception", "c40", "auc", 89.30),
        ("recce", "c23", "acc", 97.06), ("recce", "c23", "auc", 99.32),
        ("recce", "c40", "acc", 91.03), ("recce", "c40", "auc", 95.02),
        ("panet", "c23", "acc", 97.26), ("panet", "c23", "auc", 99.37),
        ("panet", "c40", "acc", 91.37), ("panet", "c40", "auc", 94.90),
        ("panet", "raw", "acc", None), ("panet", "c23", "eer", None),
    ],
)  # fmt: skip
def test_the_papers_figures(model, compression, metric, figure):
    assert paper_figure(model, compression, metric) == figure


def result(folder: Path, model: str, seed: int, auc: float, videos=(140, 560)) -> Result:
    """A finished training's files, with made-up figures."""
    run = folder / f"c23-{model}-seed{seed}"
    (run / "c23-test").mkdir(parents=True)
    counts = dict(zip(("n_real", "n_fake"), videos, strict=True))
    level = {"acc": auc - 0.1, "auc": auc, **counts}
    metrics = {
        "frame": level, "video": level, "trivial_baseline_auc": 0.6, "always_fake_acc": 0.8, "fingerprint": "f00d",
    }  # fmt: skip
    (run / "config.json").write_text(json.dumps({"commit": "0123456789abcdef"}))
    (run / "log.csv").write_text("epoch,val_auc,best,test_acc,test_auc\n1,0.7,1,0.6,0.65\n2,0.6,0,0.5,0.7\n")
    with open(run / "c23-test" / "scores.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["name", "video", "method", "label", "fake_probability"])
        rows.writerows([("a", "real/1", "real", 0, 0.2), ("b", "FaceSwap/1", "FaceSwap", 1, 0.9)])
    return Result(model, "c23", seed, run, metrics)


def data_folder(folder: Path, own_ids=False, missing=0) -> dict[str, Path]:
    """A manifest with FF++'s test videos, or with as many under other ids, as forge.py would name them."""
    pairs = ffpp.official_pairs()["test"]
    if own_ids:
        pairs = [(f"{2 * number:03d}", f"{2 * number + 1:03d}") for number in range(len(pairs))]
    fakes = [f"{a}_{b}" for pair in pairs for a, b in (pair, pair[::-1])]
    videos = [("real", name) for pair in pairs for name in pair] + [(m, name) for m in ffpp.METHODS for name in fakes]
    rows = [{"path": f"{m}/{name}/0.png", "method": m, "video": name, "split": "test"} for m, name in videos[missing:]]
    rows += [{"problem": "missing", "method": m, "video": name, "split": "test"} for m, name in videos[:missing]]
    rows.append({"path": "real/001/0.png", "method": "real", "video": "001", "split": "train"})
    folder.mkdir()
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"c23": folder}


def some_results(folder: Path, **options) -> list[Result]:
    figures = {("recce", 0): 0.90, ("recce", 1): 0.92, ("panet", 0): 0.93, ("panet", 1): 0.93}
    return [result(folder, model, seed, auc, **options) for (model, seed), auc in figures.items()]


def test_gains_are_taken_seed_by_seed(tmp_path):
    found = gains(some_results(tmp_path), "c23", "auc")
    assert found.values == pytest.approx((3.0, 1.0)) and found.paper == pytest.approx(0.05)


def test_only_ffpps_own_test_split_is_compared(tmp_path):
    own = data_folder(tmp_path / "own")
    results = some_results(tmp_path / "a")
    assert is_ffpp(results, own)
    assert not is_ffpp(results, data_folder(tmp_path / "forged", own_ids=True))
    assert not is_ffpp(results, data_folder(tmp_path / "gap", missing=1))
    assert not is_ffpp(some_results(tmp_path / "b", videos=(15, 60)), own)
    assert cell(results, "panet", "c23", "frame", "auc", ffpp=False).paper is None
    assert cell(results, "panet", "c23", "video", "auc", ffpp=True).paper is None


def test_the_report_of_a_stand_in_names_no_figure_of_the_papers(tmp_path):
    data = data_folder(tmp_path / "data")
    results = some_results(tmp_path, videos=(15, 60))
    page = reproduction_report.write(tmp_path / "report", results, data, {"profile": "recce"})
    text = (tmp_path / "report" / "report.md").read_text()
    assert "not FaceForensics++'s whole test split" in text and "97.26" not in text and "0.05" not in text
    assert "| PANet | 83.00 ± 0.00 | 93.00 ± 0.00 |" in text and "f00d" in text
    assert "Chosen on the test split" not in text
    html = page.read_text()
    assert html.count("data:image/png;base64,") == 2 and "<table>" in html


def test_the_report_on_ffpp_compares(tmp_path):
    data = data_folder(tmp_path / "data")
    recipe = {"train": "--epochs 2"}
    reproduction_report.write(tmp_path / "report", some_results(tmp_path), data, recipe, chosen_on_test=True)
    text = (tmp_path / "report" / "report.md").read_text()
    assert "99.37" in text and "outside" in text and "80.0 %" in text
    assert "PANet less RECCE, seed by seed, by frame" in text and "(the paper's: +0.05)" in text
    assert "| PANet | 60.00 ± 0.00 | 70.00 ± 0.00 |" in text  # the best of each column over the epochs
    assert "0123456789" in text and "`train`: --epochs 2" in text
