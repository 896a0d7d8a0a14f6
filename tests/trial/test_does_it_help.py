"""does_it_help.py: stopped at any moment and resumed it ends with the same table, and refuses what would spoil it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import does_it_help
from tests.deepfake.scripts import REPOSITORY, call, environment
from tests.trial.drawn_pictures import draw_pictures
from trial import budget

FILES = ("report.md", "table.csv", "runs.csv", "differences.png")
SMALL = {
    "--network": "tests.trial.odd_networks:tiny", "--image-size": "12", "--batch-size": "4", "--epochs": "2",
    "--seeds": "2", "--workers": "0", "--device": "cpu",
}  # fmt: skip


def options(data: Path, out: Path, /, **changed: str) -> list[str]:
    """A small trial of two arms."""
    given = SMALL | {"--data": str(data), "--out": str(out)} | {f"--{name}": value for name, value in changed.items()}
    return [*(part for pair in given.items() for part in pair), "--arms", "emam", "--at", "1", "3"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_pictures(tmp_path_factory.mktemp("pictures") / "own")


@pytest.fixture(autouse=True)
def timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time fewer steps than a user's trial does."""
    monkeypatch.setattr(budget, "ROUNDS", dict.fromkeys(budget.ROUNDS, 1))


def refused(capsys: Any, *arguments: str) -> tuple[int, str]:
    """The exit code, and the only line on stderr beside the progress of reading images."""
    code, _, lines = call(does_it_help.main, capsys, *arguments)
    (error,) = [line for line in lines if not line.startswith("images of")]
    return code, error


def results(out: Path) -> list[dict[str, Any]]:
    """What is stored of each run, without the time that it took."""
    found = [json.loads(file.read_text()) for file in sorted((out / "runs").glob("*.json"))]
    return [{name: value for name, value in run.items() if name != "seconds"} for run in found]


def test_a_stopped_trial_ends_with_the_table_of_one_that_was_not(
    folder: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    code, printed, _ = call(does_it_help.main, capsys, *options(folder, whole))
    assert code == 0 and "trainings to do: 4 of 4, about" in printed and "| EMAM |" in printed
    assert all((whole / name).stat().st_size for name in FILES)

    done: list[tuple[str, int]] = []

    def stopping(*args: Any) -> Any:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(args[1:3])
        return train(*args)

    train = does_it_help.train
    monkeypatch.setattr(does_it_help, "train", stopping)
    assert call(does_it_help.main, capsys, *options(folder, stopped))[0] == 130
    assert done == [("nothing", 0), ("emam", 0), ("nothing", 1)]
    assert len(results(stopped)) == 3 and not (stopped / "report.md").exists()

    done.clear()
    code, printed, _ = call(does_it_help.main, capsys, *options(folder, stopped))
    assert code == 0 and done == [("emam", 1)] and "trainings to do: 1 of 4, about" in printed
    assert (stopped / "table.csv").read_bytes() == (whole / "table.csv").read_bytes()
    assert results(stopped) == results(whole)
    done.clear()
    assert call(does_it_help.main, capsys, *options(folder, stopped))[0] == 0 and not done

    for name, value in (("epochs", "3"), ("seeds", "3"), ("lr", "0.01"), ("split-seed", "1"), ("start", "layer")):
        code, error = refused(capsys, *options(folder, stopped, **{name: value}))
        assert code == 2 and "choose a new folder, or give the same command again" in error
    assert not done


def stop_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Press Ctrl-C when the first training begins."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(does_it_help, "train", interrupt)


def test_the_criterion_is_written_before_anything_is_trained(
    folder: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_before_training(monkeypatch)
    code, printed, _ = call(does_it_help.main, capsys, *options(folder, tmp_path / "out"))
    assert code == 130 and "trainings to do: 4 of 4, about" in printed and "NCHW 16x12x12" in printed
    assert "own: 16 images to train, 4 to test, classes: blue, red\n" in printed
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["criterion"]["level"] == 0.05 and "Holm" in config["criterion"]["correction"]
    assert config["locations"] == ["1", "3"] and not (tmp_path / "out/runs").exists()


def test_an_estimate_leaves_nothing_so_that_settings_may_change(
    folder: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    code, printed, _ = call(does_it_help.main, capsys, *options(folder, out), "--estimate")
    assert code == 0 and "trainings to do: 4 of 4, about" in printed and not out.exists()
    with monkeypatch.context() as stopping:
        stop_before_training(stopping)
        assert call(does_it_help.main, capsys, *options(folder, out, epochs="1"))[0] == 130
    assert call(does_it_help.main, capsys, *options(folder, out, epochs="1"), "--estimate")[0] == 0
    code, error = refused(capsys, *options(folder, out, epochs="3"), "--estimate")
    assert code == 2 and "made with another epochs" in error


def test_matched_by_time_a_slower_arm_gets_fewer_steps() -> None:
    seconds = {"nothing": 0.1, "emam": 0.2, "eca": 0.05}
    assert budget.matched(30, seconds, "time") == {"nothing": 30, "emam": 15, "eca": 60}
    assert budget.matched(30, seconds, "epochs") == {"nothing": 30, "emam": 30, "eca": 30}


def test_a_trial_matched_by_time_does_the_steps_that_were_stored(
    folder: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = options(folder, tmp_path / "out", match="time")
    with monkeypatch.context() as stopping:
        stop_before_training(stopping)
        assert call(does_it_help.main, capsys, *arguments)[0] == 130
    file = tmp_path / "out/budget.json"
    stored = json.loads(file.read_text())
    stored["steps"] = {"nothing": 4, "emam": 3}
    file.write_text(json.dumps(stored))
    assert call(does_it_help.main, capsys, *arguments)[0] == 0
    assert {run["arm"]: run["steps"] for run in results(tmp_path / "out")} == {"nothing": 4, "emam": 3}


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"seeds": "0"}, "'0' is not a whole number from 2 to 1000"),
        ({"seeds": "1"}, "'1' is not a whole number from 2 to 1000"),
        ({"epochs": "0"}, "'0' is not a whole number of at least 1"),
        ({"batch-size": "17"}, "--batch-size 17: is more than the 16 images to train"),
        ({"network": "no_such_network"}, "--network no_such_network: not a name of timm"),
        ({"network": "tests.trial.odd_networks:of_no_training"}, "nothing: a step of training failed: is finished"),
        ({"data": "/nowhere"}, "--data /nowhere: no such folder"),
        ({"device": "tpu9"}, "--device tpu9 cannot be used here"),
        ({"test-share": "1"}, "'1' is not a number from 0.01 to 0.99"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(
    folder: Path, tmp_path: Path, capsys: Any, changed: dict[str, str], said: str
) -> None:
    code, error = refused(capsys, *options(folder, tmp_path / "out", **changed))
    assert code == 2 and said in error
    assert not (tmp_path / "out").exists()


def test_a_wrong_name_is_found_before_images_are_read(tmp_path: Path, capsys: Any) -> None:
    code, error = refused(capsys, *options(tmp_path / "nowhere", tmp_path / "out", network="no_such_network"))
    assert code == 2 and "--network no_such_network: not a name of timm" in error
    code, error = refused(capsys, *options(tmp_path / "nowhere", tmp_path / "out"), "--pretrained")
    assert code == 2 and "--pretrained: loads weights of timm's networks" in error


def test_results_may_not_become_a_class(folder: Path, capsys: Any) -> None:
    for out in (folder / "out", folder / "red/out"):
        code, error = refused(capsys, *options(folder, out))
        assert code == 2 and "is in --data" in error and not out.exists()


def test_nothing_alone_is_no_trial(folder: Path, tmp_path: Path, capsys: Any) -> None:
    code, error = refused(capsys, *options(folder, tmp_path / "out"), "--arms", "nothing")
    assert code == 2 and "--arms nothing: is compared with itself" in error


@pytest.mark.parametrize("damage", ["{", '{"arm": "emam"}'])
def test_a_damaged_result_is_named(folder: Path, tmp_path: Path, capsys: Any, damage: str) -> None:
    out = tmp_path / "out"
    assert call(does_it_help.main, capsys, *options(folder, out, epochs="1"))[0] == 0
    (out / "runs/emam-seed1.json").write_text(damage)
    code, error = refused(capsys, *options(folder, out, epochs="1"))
    assert code == 1 and "emam-seed1.json" in error


def test_ctrl_c_while_the_command_imports_is_one_line(tmp_path: Path) -> None:
    """A stand-in for torch, the first large package that it imports, sends it."""
    lines = "import os, signal, time", "os.kill(os.getpid(), signal.SIGINT)", "while True: time.sleep(0.01)"
    (tmp_path / "torch.py").write_text("\n".join(lines))
    process = subprocess.Popen(
        [sys.executable, REPOSITORY / "examples/does_it_help.py"],
        stderr=subprocess.PIPE,
        text=True,
        env={**environment(), "PYTHONPATH": str(tmp_path)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.communicate()[1] == "interrupted\n" and process.returncode == 130


@pytest.mark.slow
def test_a_killed_command_goes_on_where_it_was(folder: Path, tmp_path: Path) -> None:
    """As a user does it, in processes of their own; 8 arms of a timm network, killed after the third result."""
    script = [sys.executable, str(REPOSITORY / "examples/does_it_help.py"), "--network", "test_resnet"]
    given = {"--data": str(folder), "--image-size": "32", "--batch-size": "4", "--epochs": "1", "--seeds": "2"}
    tables = []
    for name, kill in (("killed", True), ("whole", False)):
        command = [*script, *(part for pair in given.items() for part in pair), "--out", str(tmp_path / name)]
        if kill:
            process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while len(list((tmp_path / name / "runs").glob("*.json"))) < 3:
                assert process.poll() is None
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert not (tmp_path / name / "report.md").exists()
        done = subprocess.run(command, env=environment(), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        tables.append((tmp_path / name / "table.csv").read_bytes())
    assert tables[0] == tables[1] and len(tables[0].splitlines()) == 9
