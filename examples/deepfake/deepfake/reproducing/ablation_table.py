"""The ablation's results: mean and spread of each case over its seeds, its difference from none/none, the table."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..common.cli import UserError
from ..common.files import write_json
from ..common.markdown import table, write_markdown
from ..common.texts import read_json
from ..demo.options import is_demo
from ..evaluating.evaluation import METRICS_FILE, results_folder
from ..evaluating.summary_table import name_of
from ..training.settings import LOCATIONS
from .table_one import Cell

Case = tuple[str, str]
"""The location of EMAM and that of SCAM, or "none"."""

RECCE, PANET = ("none", "none"), ("common", "final")
ALL: list[Case] = sorted(itertools.product(LOCATIONS, LOCATIONS), key=lambda case: case != RECCE)
LEVEL_METRICS = (("frame", "auc"), ("frame", "acc"), ("video", "auc"), ("video", "acc"))
NAMES = [f"{level}.{key}" for level, key in LEVEL_METRICS]


def run_folder(out: Path, case: Case, seed: int) -> Path:
    """Where the run of a case with a seed is."""
    return out / "-".join(case) / f"seed{seed}"


def metrics_file(run: Path, data: str) -> Path:
    """The last file that a finished run gets."""
    return results_folder(run, data) / METRICS_FILE


def write_table(out: Path, data: str, training: dict[str, Any]) -> None:
    """Write ablation.json and ablation.md of all runs in `out`; `training` has the options they were trained with."""
    cases = gather(out, data)
    write_json(out / "ablation.json", {"data": data, "cases": cases})
    write_markdown(out / "ablation.md", markdown(cases, data, training))


def gather(out: Path, data: str) -> list[dict[str, Any]]:
    """Each case with results: its seeds, mean and spread of each figure, and those of the differences from none/none.

    A difference is between runs of the same seed. The spread is the sample standard deviation, null for one run.
    UserError if two runs were tested on different images.
    """
    found: list[dict[str, Any]] = []
    for case in ALL:
        names = [run.name.removeprefix("seed") for run in (out / "-".join(case)).glob("seed*")]
        seeds = sorted(int(name) for name in names if name.isdecimal())
        files = {seed: metrics_file(run_folder(out, case, seed), data) for seed in seeds}
        runs = {seed: read_json(file) for seed, file in files.items() if file.is_file()}
        if not runs:
            continue
        first = next(iter(runs.values()))
        fingerprint = found[0]["fingerprint"] if found else first["fingerprint"]
        for seed, run in runs.items():
            if run["fingerprint"] != fingerprint:
                other = f"{run['fingerprint']}, not {fingerprint}"
                raise UserError(
                    f"{run_folder(out, case, seed)}: tested on other images ({other}); move this folder out of OUT"
                )
        row: dict[str, Any] = dict(zip(("emam", "scam"), case), seeds=list(runs), fingerprint=fingerprint)
        row |= {f"{level}.{key}": _summary([run[level][key] for run in runs.values()]) for level, key in LEVEL_METRICS}
        found.append(row | {name: first[name] for name in ("trivial_baseline_auc", "always_fake_acc")})
    for row in found:
        row["from_none"] = {name: _difference(row, found[0], name) for name in NAMES}
    return found


def markdown(cases: Sequence[dict[str, Any]], data: str, training: dict[str, Any]) -> str:
    """The table, with the sentences that keep readers from concluding more than it shows."""
    head = ["EMAM", "SCAM", "seeds", *(f"{key.upper()} by {level}" for level, key in LEVEL_METRICS)]
    rows = [[row["emam"], row["scam"], len(row["seeds"]), *(_text(row, name) for name in NAMES)] for row in cases]
    parts = [
        f"# EMAM and SCAM, off and at every location, on {name_of(data)} (test)",
        "In %: mean ± standard deviation over the seeds; in brackets the mean difference from none / none (RECCE)\n"
        "with the same seed, ± its standard deviation over the seeds. Three seeds cannot show a difference of less\n"
        "than 2.5 times that deviation; and with so many cases, part of the best one's lead is chance.",
        table(head, rows),
    ]
    if cases:
        trivial, always = cases[0]["trivial_baseline_auc"], cases[0]["always_fake_acc"]
        auc = "not known" if trivial is None else f"{100 * trivial:.2f}"
        parts.append(f"Trivial cues alone: AUC {auc}. Always answering fake: ACC {100 * always:.2f}.")
        parts.append(f"Images: `{cases[0]['fingerprint']}`.")
    options = ", ".join(f"{name} {value}" for name, value in training.items())
    parts.append(f"Trained with {options or 'no options'}; the others are train.py's defaults.")
    if is_demo(data):
        parts.append("**The demo's forgeries are visible ones: a demonstration, not a result.**")
    return "\n\n".join(parts) + "\n"


def _summary(values: Sequence[float]) -> dict[str, Any]:
    cell = Cell(tuple(values))
    return {"mean": cell.mean, "std": cell.spread, "values": list(values)}


def _difference(row: dict[str, Any], first: dict[str, Any], name: str) -> dict[str, Any] | None:
    """The difference from none/none, which is the first case if there are runs of it, over the seeds of both."""
    if (first["emam"], first["scam"]) != RECCE or row is first:
        return None
    plain = dict(zip(first["seeds"], first[name]["values"], strict=True))
    mine = zip(row["seeds"], row[name]["values"], strict=True)
    differences = [value - plain[seed] for seed, value in mine if seed in plain]
    return _summary(differences) if differences else None


def _text(row: dict[str, Any], name: str) -> str:
    text, difference = _in_percent(row[name]).text(), row["from_none"][name]
    return f"{text} ({_in_percent(difference).text('+')})" if difference else text


def _in_percent(summary: dict[str, Any]) -> Cell:
    return Cell(tuple(100 * value for value in summary["values"]))
