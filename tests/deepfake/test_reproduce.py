"""reproduce.py: its plan, how steps run and go on, Table I's arithmetic, and what the report may claim."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from prepare_for_tests import save_tree

import config
import estimates
import ffpp
import reproduce
import reproduction_report
import steps
from checkpoint import save_state
from cli import UserError
from coverage import official_test, read_coverage
from reproduction_plan import is_evaluated
from run import build_model
from steps import Step
from table_one import Cell, Result, cell, gains, paper_figure, read_result

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


def test_a_step_out_of_turn_names_what_it_needs():
    first = Step("one", "train.py", (), done=lambda: False)
    step = Step("two", "train.py", (), done=lambda: False, needs=(first,))
    with pytest.raises(UserError, match=r"'two' needs step 'one', which is not done"):
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
    for once in ("train c23 panet", "evaluate c23 recce"):
        assert re.search(rf"{once} once: about [\d.]+ (s|min), [\d.]+ (MB|GB)", out)
    assert re.search(r"left: about .+ here, [\d.]+ (MB|GB)\n", out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train", "--seed 3"], "--train takes no --seed: the plan gives it"),
        (["--train", "--model panet"], "--train takes no --model"),
        (["--train", "--epochs 2 --resume"], "--train takes no --resume"),
        (["--train", "--cache X"], "--train takes no --cache: give reproduce.py --cache"),
        (["--train", "--emam none"], "--train takes no --emam: .*ablate.py"),
        (["--train", "--nonsense"], "--train unrecognized arguments: --nonsense"),
        (["--compressions", "c40", "--prepare", "--methods Deepfakes --allow-missing"], "has no video in c40"),
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
    command = [str(tree), str(tmp_path / "out"), "--seeds", "1", "--models", "recce", "panet", "--cache", *TINY]
    reproduce.main([*command, "--step", "1"])
    with pytest.raises(UserError, match=r"evaluate c23 recce seed 0.* needs step 'train c23 recce seed 0'"):
        reproduce.main([*command, "--step", "5"])
    reproduce.main([*command, "--no-estimate"])
    report = (tmp_path / "out" / "report" / "report.md").read_text()
    assert "not FaceForensics++'s whole test split" in report and "| PANet |" in report
    capfd.readouterr()
    reproduce.main([*command, "--no-estimate"])
    assert capfd.readouterr().out.count("done already") == 6
    with pytest.raises(UserError, match="made with another train") as error:
        reproduce.main([*command, "--no-estimate", "--train", "--variant tiny --epochs 2 --batch-size 4"])
    assert error.value.exit_code == 2


# --- going on


def recipe_of(*options: str) -> dict:
    args = reproduce._parser().parse_args(reproduce.joined(["FFPP", "OUT", *options]))
    return reproduce._recipe(args, reproduce._settings(args, "recce"))


def prepared(out: Path, *options: str) -> list[str]:
    """A folder begun with these options, with a manifest of 2 images a split; the command that goes on with it."""
    reproduce.claim(out, recipe_of(*options))
    rows = [
        {"path": f"{split}{label}.png", "label": label, "split": split, "method": ("real", "FaceSwap")[label]}
        for split in ("train", "val", "test")
        for label in (0, 1)
    ]
    (out / "data" / "c23").mkdir(parents=True)
    (out / "data" / "c23" / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [str(out.parent / "gone"), str(out), "--seeds", "1", "--models", "panet", *options]


def test_with_all_prepared_the_videos_are_not_needed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(estimates, "measure", lambda *_: estimates.Measured(1.0, 1.0, 10**6))
    command = prepared(tmp_path / "out", *TINY)
    reproduce.main([*command, "--plan"])
    assert re.search(r"train c23 panet once: about \d+ s, 1 MB", capsys.readouterr().out)
    (tmp_path / "out" / "data" / "c23" / "manifest.jsonl").unlink()
    with pytest.raises(UserError, match="gone: no such folder"):
        reproduce.main([*command, "--plan"])


def test_an_evaluation_waits_for_the_whole_training(tmp_path):
    command = prepared(tmp_path / "out", *TINY[:1], "--variant tiny --epochs 40", "--compressions", "c23")
    run = result(tmp_path / "out" / "runs", "panet", 0, 0.9, "f00d").run
    (run / "c23-test" / "metrics.json").unlink()
    with pytest.raises(UserError, match="'evaluate c23 panet seed 0' needs step 'train c23 panet seed 0'"):
        reproduce.main([*command, "--step", "3"])


def test_only_what_decides_the_results_must_stay(tmp_path):
    assert recipe_of() == PAPERS
    same = ["--train", "--workers 3 --device cpu --checkpoint-every 9 --epochs 40", "--prepare", "--workers 7"]
    assert recipe_of(*same) == PAPERS
    reproduce.claim(tmp_path, recipe_of())
    reproduce.claim(tmp_path, recipe_of(*same))
    for other in (["--train", "--epochs 41"], ["--prepare", "--size 160"], ["--processes", "2"]):
        with pytest.raises(UserError, match=f"made with another {other[0][2:]}"):
            reproduce.claim(tmp_path, recipe_of(*other))
    with pytest.raises(UserError, match=r"--also-chosen-on-test: the trainings in .* log no figures of the test split"):
        reproduce.claim(tmp_path, recipe_of("--also-chosen-on-test"))


def test_a_single_option_is_passed_on():
    assert recipe_of("--train", "--no-pretrained")["train"] == {"pretrained": False}
    given = reproduce._parser().parse_args(reproduce.joined(["F", "O", "--prepare", "--allow-missing", "--plan"]))
    assert given.prepare == ["--allow-missing"] and given.plan
    with pytest.raises(UserError, match="--train: expected one argument"):
        reproduce.main(["F", "O", "--train"])


def test_the_cache_is_made_between_preparing_and_training(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(estimates, "measure", lambda *_: estimates.Measured(1.0, 1.0, 10**6))
    command = prepared(tmp_path / "out", *TINY)
    reproduce.main([*command, "--plan", "--cache", "--also-chosen-on-test"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["2", "3", "4"]
    assert re.search(r"cache c23 .*cache.py .*--image-size 64 --splits train val test$", lines[1])
    assert re.search(r"train.py .*--watch-test --cache .*cache/c23", lines[2])
    assert "cache c23: 0 MB" in "\n".join(lines)
    with pytest.raises(UserError, match="'train c23 panet seed 0' needs step 'cache c23'"):
        reproduce.main([*command, "--cache", "--step", "3"])


# --- estimates


def test_the_estimate_counts_what_a_run_keeps(tmp_path):
    settings = config.settle({"variant": "tiny", "data": "x", "out": "x", "batch_size": 2})
    model = build_model(settings, pretrained=False)
    optimizer = torch.optim.Adam(model.parameters())
    sum(parameter.sum() for parameter in model.parameters()).backward()
    optimizer.step()
    save_state(tmp_path / "last.pt", {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    kept = (tmp_path / "last.pt").stat().st_size + weights
    assert kept == pytest.approx(estimates.measure(settings, 1).room, rel=0.1)


def test_the_estimate_decodes_a_video_of_about_the_mean_number_of_frames():
    tasks = [SimpleNamespace(count=count) for count in [50] * 72 + [12, 13] * 144 + [32] * 140]
    assert {task.count for task in estimates.samples(tasks)} == {32}


def test_the_estimate_scores_the_test_split_where_it_is_watched():
    images = Counter(train=32, val=32, test=64)
    measured, settings = estimates.Measured(10.0, 1.0, 5), config.settle({"data": "x", "out": "x", "epochs": 3})
    args = SimpleNamespace(also_chosen_on_test=False, processes=2)
    assert reproduce._estimate_run(args, "train", settings, measured, images) == (33.0, 5)
    args.also_chosen_on_test = True
    assert reproduce._estimate_run(args, "train", settings, measured, images) == (39.0, 5)
    assert reproduce._estimate_run(args, "evaluate", settings, measured, images) == (4.0, 0)


# --- table


def test_mean_spread_and_verdict():
    values = Cell((96.0, 97.0, 98.0), paper=97.26)
    assert (values.mean, values.spread) == (97.0, 1.0)
    assert str(values) == "97.00 ± 1.00" and values.verdict() == "-0.26, within ±4.97"
    assert Cell((96.9, 97.0, 97.1), paper=99.0).verdict() == "-2.00, outside ±0.50"
    assert Cell((96.0, 98.0), paper=97.0).verdict() == "+0.00, cannot tell, ±22.01"
    assert Cell((60.0, 62.0), paper=97.0).verdict() == "-36.00, outside ±22.01"
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


PAPERS = {**reproduction_report.PAPERS, "also_chosen_on_test": False}  # as _recipe notes it


def result(folder: Path, model: str, seed: int, auc: float, fingerprint: str) -> Result:
    """A finished training's files, with made-up figures."""
    run = folder / f"c23-{model}-seed{seed}"
    (run / "c23-test").mkdir(parents=True)
    level = {"acc": auc - 0.1, "auc": auc, "n_real": 140, "n_fake": 560}
    levels = {"frame": level, "video": {**level, "auc": auc + 0.01}}
    metrics = {
        **levels, "methods": {"FaceSwap": levels, "Face2Face": levels}, "checkpoint_epoch": 1,
        "fingerprint": fingerprint, "trivial_baseline_auc": 0.6, "always_fake_acc": 0.8,
    }  # fmt: skip
    (run / "c23-test" / "metrics.json").write_text(json.dumps(metrics))
    (run / "config.json").write_text(json.dumps({"commit": "0123456789abcdef", "data": {"fingerprint": fingerprint}}))
    (run / "log.csv").write_text("epoch,val_auc,best,test_acc,test_auc\n1,0.7,1,0.6,0.65\n2,0.6,0,0.5,0.7\n")
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
    folder.mkdir(parents=True)
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"c23": folder}


def some_results(folder: Path, data: dict[str, Path]) -> list[Result]:
    mark = hashlib.sha256((data["c23"] / "manifest.jsonl").read_bytes()).hexdigest()
    figures = {("recce", 0): 0.90, ("recce", 1): 0.92, ("panet", 0): 0.93, ("panet", 1): 0.93}
    return [result(folder, model, seed, auc, mark) for (model, seed), auc in figures.items()]


def report_of(folder: Path, recipe=PAPERS, **options) -> str:
    """The report on data with such a manifest."""
    data = data_folder(folder / "data", **options)
    reproduction_report.write(folder / "report", some_results(folder, data), data, recipe)
    return (folder / "report" / "report.md").read_text()


def test_gains_are_taken_seed_by_seed(tmp_path):
    found = gains(some_results(tmp_path, data_folder(tmp_path / "data")), "c23", "auc")
    assert found.values == pytest.approx((3.0, 1.0)) and found.paper == pytest.approx(0.05)


def test_only_ffpps_own_test_split_is_compared(tmp_path):
    own, forged, gap, hole = (
        read_coverage(data_folder(tmp_path / name, **options)["c23"])
        for name, options in (
            ("own", {}), ("forged", {"own_ids": True}), ("gap", {"missing": 7}), ("hole", {"missing": 8}),
        )
    )  # fmt: skip
    assert [found.is_ffpp for found in (own, forged, gap, hole)] == [True, False, True, False]
    assert own.lacking == [] and len(gap.lacking) == 7 and set(gap.lacking) < official_test()
    results = some_results(tmp_path, {"c23": tmp_path / "own"})
    assert cell(results, "panet", "c23", "frame", "auc", ffpp=False).paper is None
    assert cell(results, "panet", "c23", "video", "auc", ffpp=True).paper is None


def test_a_compression_with_gaps_does_not_blank_the_other(tmp_path):
    data = data_folder(tmp_path / "c23") | {"c40": data_folder(tmp_path / "c40", missing=8)["c23"]}
    results = some_results(tmp_path / "a", data)
    results += [r._replace(compression="c40") for r in some_results(tmp_path / "b", {"c23": data["c40"]})]
    reproduction_report.write(tmp_path / "report", results, data, PAPERS)
    high, low = (tmp_path / "report" / "report.md").read_text().split("## LQ (c40)")
    assert "**LQ (c40) is not FaceForensics++'s whole test split**" in high
    assert "99.37" in high and "94.90" not in low and "8 of its 700 lacking." in low


def test_the_report_names_what_gave_no_crop(tmp_path):
    text = report_of(tmp_path, missing=2)
    assert "Without a crop, in all splits: 2 missing videos." in text
    assert re.search(r"2 of its 700 lacking: real/\d{3}, real/\d{3}\.", text) and "99.37" in text


def test_problems_are_counted_by_kind(tmp_path):
    problems = [("no face", 3), ("no face", 4), ("no face in any of 32 frames", None), ("not a video: broken", None)]
    rows = [{"method": "real", "video": "1", "split": "val", "problem": p, "frame": f} for p, f in problems]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_coverage(tmp_path).problems == {
        "frames without a face": 2, "videos without a face": 1, "unreadable videos": 1,
    }  # fmt: skip


def test_the_report_of_a_stand_in_names_no_figure_of_the_papers(tmp_path):
    text = report_of(tmp_path, own_ids=True)
    assert "not FaceForensics++'s whole test split" in text and "97.26" not in text and "0.05" not in text
    assert "| PANet | 83.00 ± 0.00 | 93.00 ± 0.00 |" in text and "of its 700" not in text
    assert "Chosen on the test split" not in text
    html = (tmp_path / "report" / "report.html").read_text()
    assert html.count("data:image/png;base64,") == 2 and "<table>" in html


def test_the_report_on_ffpp_compares(tmp_path):
    data = data_folder(tmp_path / "data")
    results = some_results(tmp_path, data)
    reproduction_report.write(tmp_path / "report", results, data, PAPERS, chosen_on_test=True)
    text = (tmp_path / "report" / "report.md").read_text()
    assert "99.37" in text and "outside" in text and "80.0 %" in text and results[0].metrics["fingerprint"] in text
    assert "PANet less RECCE, seed by seed, by frame" in text and "(the paper's: +0.05)" in text
    assert "| PANet | 60.00 ± 0.00 | 70.00 ± 0.00 |" in text  # the best of each column over the epochs
    assert "| c23-recce-seed0 | 1 | 70.00 | 0123456789 |" in text
    assert "without the flooding of its own code" in text and "not the paper's recipe" not in text


def test_each_method_is_shown_by_frame_and_by_video(tmp_path):
    text = report_of(tmp_path)
    assert "| AUC by frame | FaceSwap | Face2Face |" in text and "| AUC by video | FaceSwap | Face2Face |" in text
    assert "| RECCE | 91.00 ± 1.41 | 91.00 ± 1.41 |" in text and "| RECCE | 92.00 ± 1.41 | 92.00 ± 1.41 |" in text


def test_another_recipe_is_told_above_the_verdicts(tmp_path):
    recipe = {**PAPERS, "train": {"epochs": 2, "flood": 0.04}, "profile": "bench32"}
    text = report_of(tmp_path, recipe)
    assert "**This is not the paper's recipe** (`profile`: bench32; `train`: epochs 2, flood 0.04)" in text
    assert "all with `--flood 0.04`" in text


def test_runs_on_other_data_are_not_joined(tmp_path):
    data = data_folder(tmp_path / "data")
    results = some_results(tmp_path, data)
    results[1].metrics["fingerprint"] = "another"
    with pytest.raises(UserError, match="other data were tested: c23-recce-seed1 on another"):
        reproduction_report.write(tmp_path / "report", results, data, PAPERS)
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(("name", "value"), [("checkpoint_epoch", 2), ("fingerprint", "another")])
def test_metrics_of_another_epoch_or_data_are_refused(tmp_path, name, value):
    run = result(tmp_path, "panet", 0, 0.9, "f00d").run
    metrics = run / "c23-test" / "metrics.json"
    assert is_evaluated(run, metrics)
    read_result(run, metrics, "panet", "c23", 0)
    metrics.write_text(json.dumps({**json.loads(metrics.read_text()), name: value}))
    assert not is_evaluated(run, metrics)
    with pytest.raises(UserError, match=rf"metrics.json: {name} {value}, but the training in .*seed0 has"):
        read_result(run, metrics, "panet", "c23", 0)


def test_a_missing_log_is_named(tmp_path):
    run = result(tmp_path, "panet", 0, 0.9, "f00d").run
    (run / "log.csv").unlink()
    with pytest.raises(UserError, match=r"cannot read .*log\.csv"):
        read_result(run, run / "c23-test" / "metrics.json", "panet", "c23", 0)
