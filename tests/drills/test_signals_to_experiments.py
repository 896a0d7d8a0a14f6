"""Drill: a scheduler ends reproduce.py, ablate.py and does_it_help.py in the middle; the same command goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

pytest.importorskip("dlib", reason="finding faces in videos needs dlib-bin")

from tests.deepfake.scripts import REPOSITORY, environment

pytestmark = pytest.mark.long
SMALL = "--variant tiny --epochs 6 --batch-size 4 --workers 0 --threads 1"


class Experiment(NamedTuple):
    """A command that does several trainings."""

    script: str
    options: Callable[[Path, Path], list[str]]  # of a folder of data and its own
    middle: str  # files that exist from the middle of its work on
    results: tuple[str, ...]


def _reproduce(data: Path, out: Path) -> list[str]:
    given = ["--seeds", "1", "--models", "panet", "--compressions", "c23", "--no-estimate"]
    return [str(data / "ffpp"), str(out), *given, "--train", SMALL, "--prepare", "--size 64 --workers 1"]


def _ablate(data: Path, out: Path) -> list[str]:
    given = ["--cases", "none/none", "common/final", "--seeds", "0", *SMALL.split()]
    return ["--data", str(data / "noise"), "--out", str(out), *given]


def _does_it_help(data: Path, out: Path) -> list[str]:
    given = "--network test_resnet --image-size 32 --batch-size 4 --epochs 2 --seeds 2 --workers 0 --arms emam scam"
    return ["--data", str(data / "pictures"), "--out", str(out), *given.split()]


EXPERIMENTS = {
    "reproduce": Experiment(
        "deepfake/reproduce.py", _reproduce, "runs/*/log.csv", ("report/report.md", "runs/*/c23-test/scores.csv")
    ),
    "ablate": Experiment("deepfake/ablate.py", _ablate, "none-none/seed0/log.csv", ("ablation.json", "ablation.md")),
    "does_it_help": Experiment("does_it_help.py", _does_it_help, "runs/*.json", ("table.csv",)),
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_that_a_scheduler_ends_goes_on_to_the_same_result(data: Path, tmp_path: Path, name: str) -> None:
    """SIGTERM to its process alone, and to all of its group SIGUSR1, as SLURM sends it."""
    experiment = EXPERIMENTS[name]
    start(experiment, data, tmp_path / "whole").communicate()
    for sent in (signal.SIGTERM, signal.SIGUSR1):
        out = tmp_path / sent.name
        process = start(experiment, data, out)
        while not list(out.glob(experiment.middle)):
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        kill = os.kill if sent == signal.SIGTERM else os.killpg
        kill(process.pid, sent)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 128 + sent and "Traceback" not in errors, errors
        assert errors.splitlines()[-1] == "terminated"
        assert results(experiment, out) != results(experiment, tmp_path / "whole")
        again = start(experiment, data, out)
        _, errors = again.communicate()
        assert again.returncode == 0, errors
        found = results(experiment, out)
        assert found and found == results(experiment, tmp_path / "whole")


def start(experiment: Experiment, data: Path, out: Path) -> subprocess.Popen[str]:
    """Start the command in a process group of its own."""
    command = [sys.executable, str(REPOSITORY / "examples" / experiment.script), *experiment.options(data, out)]
    return subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def results(experiment: Experiment, out: Path) -> dict[str, str]:
    """The text of each file of the result; the name of the folder does not count."""
    files = [file for pattern in experiment.results for file in sorted(out.glob(pattern))]
    return {str(file.relative_to(out)): file.read_text().replace(str(out), "OUT") for file in files}
