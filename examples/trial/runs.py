"""The finished runs of a trial, a file for each arm and seed: what is there is never done again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from deepfake.common.cli import UserError
from deepfake.common.files import make_folder, write_json
from deepfake.common.texts import read_json

Run = tuple[str, int]
"""An arm and a seed."""
RUNS = "runs"
COLUMNS = ("arm", "seed", "accuracy", "test_loss", "steps", "shares", "start", "seconds")


def in_order(arms: Sequence[str], seeds: int) -> list[Run]:
    """All runs: every arm of a seed before the next seed."""
    return [(arm, seed) for seed in range(seeds) for arm in arms]


def is_done(folder: Path, run: Run) -> bool:
    """Whether a run has been stored."""
    return _file(folder, run).is_file()


def store(folder: Path, run: Run, found: dict[str, Any]) -> None:
    """Store a finished run, completely or not at all."""
    make_folder(folder / RUNS)
    write_json(_file(folder, run), found)


def read_all(folder: Path, runs: Iterable[Run]) -> list[dict[str, Any]]:
    """Every run. UserError if one is missing, damaged, or did not start from the weights of the others of its seed."""
    found: list[dict[str, Any]] = []
    starts: dict[int, str] = {}
    for arm, seed in runs:
        file = _file(folder, (arm, seed))
        value = read_json(file)
        if set(value) != set(COLUMNS) or (value["arm"], value["seed"]) != (arm, seed):
            raise UserError(f"{file}: not what this command wrote; remove it, and give the same command again")
        if starts.setdefault(seed, value["start"]) != value["start"]:
            raise UserError(f"{file}: did not start from the weights of seed {seed}'s other arms; choose a new folder")
        found.append(value)
    return found


def _file(folder: Path, run: Run) -> Path:
    return folder / RUNS / f"{run[0]}-seed{run[1]}.json"
