"""A folder of noise images, very short trainings on it, and comparisons of runs."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import train

COUNTS = {"train": 12, "val": 5, "test": 2}
"""Images of each class in each split."""


def write_images(folder: Path, seed: int = 0) -> Path:
    """Noise images, brighter in the middle where fake: real/ and fake/ under train/, val/, test/."""
    rng = np.random.default_rng(seed)
    for split, count in COUNTS.items():
        for name in ("real", "fake"):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 200, (64, 64, 3), dtype=np.uint8)
                if name == "fake":
                    pixels[20:44, 20:44] += 40
                Image.fromarray(pixels).save(folder / split / name / f"{number:03}.png")
    return folder


def arguments(data: Path | str, out: Path, *more: str) -> list[str]:
    """Arguments for a run of two epochs of three steps, of the tiny network."""
    small = ["--variant", "tiny", "--epochs", "2", "--batch-size", "8", "--workers", "0", "--threads", "1"]
    return ["--data", str(data), "--out", str(out), "--device", "cpu", *small, *more]


def train_small(data: Path | str, out: Path, *more: str) -> Path:
    """Train in this process."""
    train.main(arguments(data, out, *more))
    return out


def last_state(out: Path) -> dict[str, Any]:
    return torch.load(out / "last.pt", weights_only=True)


def assert_same_run(one: Path, other: Path) -> None:
    """Weights, optimiser state, best weights and log are equal to the last bit (except times)."""
    states = [last_state(out) for out in (one, other)]
    for name, tensor in states[0]["model"].items():
        assert torch.equal(tensor, states[1]["model"][name]), name
    moments = [state["optimizer"]["state"] for state in states]
    assert moments[0].keys() == moments[1].keys()
    for number, values in moments[0].items():
        for name, tensor in values.items():
            assert torch.equal(tensor, moments[1][number][name]), (number, name)
    assert best_weights(one) == best_weights(other)
    assert without_seconds(log_rows(one)) == without_seconds(log_rows(other))


def best_weights(out: Path) -> bytes:
    """The tensors of RUN/best as stored (without the header, which contains --out)."""
    content = (out / "best" / "model.safetensors").read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]


def log_rows(out: Path) -> list[dict[str, str]]:
    with open(out / "log.csv", newline="") as file:
        return list(csv.DictReader(file))


def without_seconds(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{name: value for name, value in row.items() if name not in ("seconds", "waiting")} for row in rows]
