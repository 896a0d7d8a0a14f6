"""The defaults of train.py, as its --help prints them, beside the paper's recipe and RECCE's configuration."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from benchmarks.fidelity.lines import Table

TRAIN = Path(__file__).parents[2] / "examples/deepfake/train.py"


class Setting(NamedTuple):
    """An option of train.py: what the paper says, what RECCE's code has, and the value that both mean, if any."""

    option: str
    paper: str
    recce: str
    wanted: str


SETTINGS = (
    Setting("batch-size", "32", "32 a process", "32"),
    Setting("epochs", "40", "90,000 steps", "40"),
    Setting("lr", "Adam, 2e-4", "Adam, 2e-4", "0.0002"),
    Setting("weight-decay", "1e-5", "1e-5", "1e-05"),
    Setting("lr-step", "a step schedule", "22,500 steps: 10 epochs", "10"),
    Setting("lr-gamma", "not given", "0.5", "0.5"),
    Setting("image-size", "not given", "299", "299"),
    Setting("lambda-reconstruction", "not given", "0.1", "0.1"),
    Setting("lambda-metric", "not given", "0.1", "0.1"),
    Setting("flood", "none (Eq. 12)", "0.04", "0.0"),
)


def table() -> Table:
    """Return the table; a default that is not what the paper, or where it is silent RECCE, has is a fault."""
    text = help_text()
    rows, faults = [], []
    for setting in SETTINGS:
        default = default_of(setting.option, text)
        rows.append([f"`--{setting.option}`", default, setting.paper, setting.recce])
        if default != setting.wanted:
            faults.append(f"--{setting.option}: default {default}, wanted {setting.wanted}")
    return Table("Recipe", ["option of `train.py`", "default", "the paper", "RECCE's configuration"], rows, faults)


def help_text() -> str:
    """Return what train.py --help prints, in one line."""
    done = subprocess.run(
        [sys.executable, TRAIN, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "120"},
    )
    return " ".join(done.stdout.split("options:", 1)[1].split())


def default_of(option: str, text: str) -> str:
    """Return the default of an option in the help's text; "missing" where the help gives no default."""
    found = re.search(rf"--{option} [A-Z].*?\(default: ([^;)]*)", text)
    return found[1] if found else "missing"
