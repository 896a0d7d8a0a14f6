"""reproduce.py: its plan, how its steps run and resume, and the estimate of time and space."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest

import reproduce
from deepfake.common.cli import UserError
from deepfake.reproducing import estimates, steps
from deepfake.reproducing.recipe import departures
from deepfake.reproducing.steps import Step
from deepfake.sources import ffpp
from deepfake.training.log import ESTIMATED_EPOCH
from tests.deepfake.experiments import experiment_of
from tests.deepfake.finished_trainings import PAPERS, result
from tests.deepfake.prepare_for_tests import save_tree, write_splits

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
        steps.run_steps([Step("one", name, (str(result),), done=result.is_file)], {})
    assert result.read_text() == "x"


def test_a_step_that_was_started_is_resumed(tmp_path):
    started = tmp_path / "config.json"
    step = Step("one", "train.py", ("--out", "x"), done=lambda: False, started_file=started)
    assert "--resume" not in step.command()
    started.touch()
    assert step.command()[-1] == "--resume"


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="Windows has no SIGUSR1")
@pytest.mark.parametrize("processes", [1, 2])
def test_torchrun_ignores_sigusr1_which_would_end_it_before_its_processes_have_saved(processes, monkeypatch):
    code = f"import signal, sys; sys.exit((signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN) != {processes > 1})"
    monkeypatch.setattr(Step, "command", lambda step: ["-c", code])
    Step("one", "train.py", (), done=lambda: False, processes=processes).run()


def test_several_processes_run_under_torchrun():
    command = Step("one", "train.py", (), done=lambda: False, processes=3).command()
    assert command[:2] == ["-m", "torch.distributed.run"] and "--nproc-per-node=3" in command


def test_a_failure_names_the_step(tmp_path):
    name = script(tmp_path, "import sys; sys.exit(3)")
    with pytest.raises(UserError, match=r"step 'one' ended with exit code 3"):
        steps.run_steps([Step("one", name, (), done=lambda: False)], {})


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
    kinds = [line.split()[1] for line in lines[:13]]
    assert kinds[:13] == ["prepare"] + ["train"] * 6 + ["evaluate"] * 6
    assert any(re.fullmatch(r"test +fake +FaceSwap +\d+ +\d+", line) for line in lines)
    assert lines[-2].startswith("HQ (c23): no comparison with the paper: ")
    assert not (tmp_path / "out").exists()
    assert sum("--model recce --seed 1" in line for line in lines) == 1


def plan_of(tree: Path, capsys, *options: str) -> str:
    reproduce.main([str(tree), str(tree.parent / "out"), "--plan", "--no-estimate", "--compressions", "c23", *options])
    return capsys.readouterr().out


def mock_ffpp(root: Path, missing: int = 0) -> Path:
    """FF++'s tree with its official splits and two more methods, every video a name with nothing in it."""
    pairs = ffpp.official_pairs()
    write_splits(root, **{split: [list(pair) for pair in listed] for split, listed in pairs.items()})
    videos = sorted(ffpp.split_of_ids(pairs))
    fakes = [f"{a}_{b}" for listed in pairs.values() for pair in listed for a, b in (pair, pair[::-1])]
    folders = {root / ffpp.ORIGINAL: videos}
    folders |= {root / ffpp.MANIPULATED / method: fakes for method in (*ffpp.METHODS, "FaceShifter")}
    for folder, names in folders.items():
        (folder / "c23/videos").mkdir(parents=True)
        for name in names:
            (folder / f"c23/videos/{name}.mp4").touch()
    for a, b in pairs["test"][:missing]:
        (root / ffpp.MANIPULATED / f"FaceSwap/c23/videos/{a}_{b}.mp4").unlink()
    return root


def test_the_plan_of_ffpp_says_what_is_compared(tmp_path, capsys):
    """The files are empty: the plan opens none of them."""
    tree = mock_ffpp(tmp_path / "tree")
    out = plan_of(tree, capsys)
    for row in (
        r"train +real +real +720 +36000",
        r"train +fake +Deepfakes +720 +9000",
        r"test +fake +FaceSwap +140 +4480",
    ):
        assert re.search(row, out)
    assert "FaceShifter" not in out and "\nHQ (c23): compares with the paper\n" in out and "not the paper's" not in out
    changed = plan_of(tree, capsys, "--processes", "4", "--train", "--epochs 3")
    assert "not the paper's recipe, which the report will say: `train`: epochs 3; `processes`: 4" in changed
    other = plan_of(tree, capsys, "--prepare", "--methods FaceSwap FaceShifter")
    assert re.search(
        r"no comparison with the paper: 140 test videos are not of FF\+\+'s test split, such as FaceShifter/", other
    )


@pytest.mark.parametrize(
    ("missing", "said"), [(7, "compares with the paper"), (12, "12 of FF++'s 700 test videos are missing")]
)
def test_the_plan_counts_missing_test_videos(tmp_path, capsys, missing, said):
    tree = mock_ffpp(tmp_path / "tree", missing)
    with pytest.raises(UserError, match=f"{missing} videos are missing"):
        plan_of(tree, capsys)
    assert said in plan_of(tree, capsys, "--prepare", "--allow-missing")


def test_the_plan_has_estimates_of_time_and_space(tmp_path, capsys):
    tree = save_tree(tmp_path / "tree")
    reproduce.main([str(tree), str(tmp_path / "out"), "--seeds", "1", "--plan", *TINY])
    out = capsys.readouterr().out
    assert re.search(r"prepare c23: about [\d.]+ (s|min), [\d.]+ MB", out)
    for once in ("train c23 panet", "evaluate c23 recce"):
        assert re.search(rf"{once} once: about [\d.]+ (s|min), [\d.]+ (bytes|MB|GB)", out)
    assert re.search(r"left: about .+ here, [\d.]+ (bytes|MB|GB)\n", out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train", "--seed 3"], "--train takes no --seed: the plan sets it"),
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


# --- resuming


def recipe_of(*options: str) -> dict:
    return reproduce.recipe_of(experiment_of(*options))


def prepared(out: Path, *options: str) -> list[str]:
    """A folder claimed with these options, with a manifest of 2 images a split; returns the command that continues."""
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
    assert re.search(r"train c23 panet once: about \d+ s, 1\.0 MB", capsys.readouterr().out)
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
    with pytest.raises(UserError, match=r"--also-chosen-on-test: the trainings in .* log no metrics of the test split"):
        reproduce.claim(tmp_path, recipe_of("--also-chosen-on-test"))


def test_a_batch_of_32_is_the_papers_however_it_is_counted():
    assert recipe_of("--train", "--batch-per-process 32") == PAPERS
    two = recipe_of("--processes", "2", "--train", "--batch-per-process 16")
    assert departures(two) == [] and two["train"] == {}
    assert recipe_of("--processes", "2", "--train", "--batch-per-process 32")["train"] == {"batch_size": 64}


def test_a_step_outside_the_plan_leaves_nothing(tmp_path):
    command = [str(save_tree(tmp_path / "tree")), str(tmp_path / "out"), "--no-estimate", *TINY, "--step", "99"]
    for more in ([], ["--plan"]):
        with pytest.raises(UserError, match="--step 99: the plan has the steps 1 to"):
            reproduce.main([*command, *more])
    assert not (tmp_path / "out").exists()


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
    assert "cache c23: 73.7 kB" in "\n".join(lines)
    with pytest.raises(UserError, match="'train c23 panet seed 0' needs step 'cache c23'"):
        reproduce.main([*command, "--cache", "--step", "3"])


# --- estimates


def test_the_estimate_counts_the_batch_of_each_process(tmp_path, capsys, monkeypatch):
    measured = []
    monkeypatch.setattr(estimates, "measure", lambda *given: measured.append(given) or estimates.Measured(1.0, 1.0, 1))
    tiny = ["--train", "--variant tiny --epochs 1 --batch-per-process 3", *TINY[2:]]
    reproduce.main([*prepared(tmp_path / "out", *tiny), "--processes", "2", "--plan"])
    assert [(settings.batch_size, processes) for settings, processes in measured] == [(6, 2)]


def test_each_training_gets_its_own_estimate(tmp_path, capfd):
    (tmp_path / "step.py").write_text(f"import os; print('got', os.environ.get('{ESTIMATED_EPOCH}'))")
    both = [Step(name, str(tmp_path / "step.py"), (), done=lambda: False) for name in ("one", "two")]
    steps.run_steps(both, {"two": 2.5})
    assert [line for line in capfd.readouterr().out.splitlines() if line.startswith("got")] == ["got None", "got 2.5"]
