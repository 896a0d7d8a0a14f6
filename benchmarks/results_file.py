"""The CSV files of results: one row per measurement; measuring again replaces the row."""

from __future__ import annotations

import csv
import io
import subprocess
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path

import torch

from panet_layers.measuring import files, machine
from panet_layers.measuring.cases import Case

KEY = ("device", "layer", "contender", "pass", "shape", "groups", "dtype", "layout", "threads")
MEASURED = (
    "milliseconds", "speedup", "rounds_kept", "rounds", "kept_bytes", "peak_bytes", "peak_extra", "gate_error"
)  # fmt: skip
PROVENANCE = ("hardware", "commit", "date", "torch", "triton", "timm")
COLUMNS = KEY + MEASURED + PROVENANCE + ("others",)  # the share of the processors that other processes took
SETTING = ("device", "hardware", "threads", "dtype", "layout")  # rows that agree in these may stand side by side

Row = dict[str, str]
ROOT = Path(__file__).resolve().parent.parent


class ResultsError(Exception):
    """Results that cannot be read, written or drawn; the message names the file or what is missing."""


def read(path: Path, columns: Sequence[str] = COLUMNS) -> list[Row]:
    """Return the rows of a file of results with these columns; an empty list if there is no file."""
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ResultsError(f"cannot read {path}: {error}") from error
    if tuple(reader.fieldnames or ()) != tuple(columns):
        raise ResultsError(f"{path} is not a file of these benchmarks: its first line must be {','.join(columns)}")
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise ResultsError(f"{path}, line {number} does not have {len(columns)} fields; correct or delete the line")
    return rows


def read_measured(path: Path, columns: Sequence[str] = COLUMNS) -> list[Row]:
    """Return the rows of a file of results, as `read` does. ResultsError if there is no file, or no row in it."""
    if not path.exists():
        raise ResultsError(f"{path}: there is no such file")
    rows = read(path, columns)
    if not rows:
        raise ResultsError(f"{path} has no rows")
    return rows


def merge(rows: list[Row], new: Iterable[Row]) -> list[Row]:
    """Return `rows` and the new ones: a new row replaces the row with the same key, or is added at the end."""
    return list({key(row): row for row in (*rows, *new)}.values())


def new_row(case: Case, pass_: str, contender: str, columns: Row) -> Row:
    """Return the row of one measurement: what was measured, and the other columns that are known."""
    what = {"contender": contender, "pass": pass_, "threads": str(torch.get_num_threads())}
    shape, groups = "x".join(map(str, case.shape)), str(case.groups or "")
    return dict.fromkeys(COLUMNS, "") | case._asdict() | what | {"shape": shape, "groups": groups} | columns


def key(row: Row) -> tuple[str, ...]:
    """Return the columns that say what a row measures."""
    return tuple(row[column] for column in KEY)


def write(path: Path, rows: list[Row], columns: Sequence[str] = COLUMNS) -> None:
    """Write the rows as CSV, all or nothing."""
    content = io.StringIO()
    writer = csv.DictWriter(content, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    replace(path, content.getvalue().encode())


def replace(path: Path, content: bytes) -> None:
    """Write a file and its folders, all or nothing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.replace(path, content)
    except OSError as error:
        raise ResultsError(f"cannot write {path}: {error}") from error


def grouped(rows: list[Row], columns: tuple[str, ...]) -> dict[tuple[str, ...], list[Row]]:
    """Return the rows by their values in `columns`, in the order of the file."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[column] for column in columns), []).append(row)
    return groups


def provenance(device: str) -> Row:
    """Return the columns that say where, when and with which versions a row is measured."""
    return {
        "hardware": machine.hardware(device),
        "commit": _commit(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        **{package: machine.version(package) for package in ("torch", "triton", "timm")},
    }


def _commit() -> str:
    """Return the short commit of the checkout; "+" follows it if the measured code has uncommitted changes."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "panet_layers", "benchmarks/*.py")
        return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
