"""Runs the example's commands: in processes of their own (their environment), or in this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import evaluate
from deepfake.common import cli
from deepfake.common.texts import read_json

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPTS = REPOSITORY / "examples/deepfake"


def environment() -> dict[str, str]:
    """The environment of a command, in which the package and the example's modules can be imported."""
    return {**os.environ, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{SCRIPTS}", "OMP_NUM_THREADS": "1"}


def run_script(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command as a user does."""
    command = [sys.executable, SCRIPTS / name, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment())


def call(main: Callable[[Sequence[str]], Any], capsys: Any, *arguments: object) -> tuple[Any, str, list[str]]:
    """Exit code, output and error lines of a command in this process."""
    with pytest.raises(SystemExit) as exit:
        cli.run(lambda: main([str(argument) for argument in arguments]))
    printed = capsys.readouterr()
    return exit.value.code, printed.out, printed.err.strip().splitlines()


def call_json(
    main: Callable[[Sequence[str]], Any], capsys: Any, *arguments: object
) -> tuple[Any, list[Any], list[str]]:
    """As `call`, with the output's JSON lines."""
    code, printed, errors = call(main, capsys, *arguments)
    return code, [json.loads(line) for line in printed.splitlines()], errors


def evaluated(run: Path, data: Path, out: Path, *options: object) -> dict[str, Any]:
    """What metrics.json holds after evaluate.py."""
    evaluate.main([str(run), "--data", str(data), "--out", str(out), *map(str, options)])
    return read_json(out / "metrics.json")
