"""The table of results: one CSV row a measurement, replaced by its rerun, written whole or not at all."""

from __future__ import annotations

import csv
import os
import platform
import subprocess
import tempfile
from collections.abc import Iterable
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

import torch

KEY = ("device", "layer", "contender", "pass", "shape", "groups", "dtype", "layout", "threads")
MEASURED = (
    "milliseconds", "speedup", "rounds_kept", "rounds", "kept_bytes", "peak_bytes", "peak_extra", "gate_error"
)  # fmt: skip
PROVENANCE = ("hardware", "commit", "date", "torch", "triton", "timm")
COLUMNS = KEY + MEASURED + PROVENANCE
SETTING = ("device", "hardware", "threads", "dtype", "layout")  # rows to show side by side

Row = dict[str, str]
ROOT = Path(__file__).resolve().parent.parent


class TableError(Exception):
    """A table that can't be read or written; the message names the file."""


def read(path: Path) -> list[Row]:
    """The rows of a table; none where there is no file."""
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TableError(f"can't read {path}: {error}") from error
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise TableError(f"{path} is not a table of these benchmarks: its first line should be {','.join(COLUMNS)}")
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise TableError(f"{path}, line {number}: wanted {len(COLUMNS)} fields")
    return rows


def merge(rows: list[Row], new: Iterable[Row]) -> list[Row]:
    """`rows` with the new ones in the place of those with the same key, or at the end."""
    merged = {key(row): row for row in rows}
    merged.update((key(row), row) for row in new)
    return list(merged.values())


def key(row: Row) -> tuple[str, ...]:
    """What a row is a measurement of."""
    return tuple(row[column] for column in KEY)


def write(path: Path, rows: list[Row]) -> None:
    """Write the table beside `path`, then move it there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", newline="", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        os.chmod(file.name, 0o644)
        os.replace(file.name, path)
    except OSError as error:
        raise TableError(f"can't write {path}: {error}") from error


def grouped(rows: list[Row], columns: tuple[str, ...]) -> dict[tuple[str, ...], list[Row]]:
    """Rows by their values in `columns`, in order of appearance."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[column] for column in columns), []).append(row)
    return groups


def replace(path: Path, content: bytes) -> None:
    """Write a file beside `path`, then move it there."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(content)
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise TableError(f"can't write {path}: {error}") from error


def provenance(device: str) -> Row:
    """Where and with what a row is measured."""
    return {
        "hardware": torch.cuda.get_device_name() if device == "cuda" else _cpu_name(),
        "commit": _commit(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        **{package: _version(package) for package in ("torch", "triton", "timm")},
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.machine()


def _commit() -> str:
    """The short commit of the checkout; with "+" where the measured code differs from it."""
    try:
        commit = _git("rev-parse", "--short", "HEAD")
        changed = _git("status", "--porcelain", "--", "panet_layers", "benchmarks/*.py")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+" if changed else "")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()
