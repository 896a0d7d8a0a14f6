"""What a run tells: a progress bar or a line an epoch, log.csv, and TensorBoard where it is installed."""

from __future__ import annotations

import csv
import io
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..common.files import replacing

Row = dict[str, float | int]
PARTS = ("loss", "classification", "reconstruction", "metric", "acc")
"""What is averaged over the steps of an epoch, in the order of the training step's result."""


def write_csv(path: Path, rows: list[Row]) -> None:
    """Write all rows in one piece: the log holds each finished epoch once, whatever happened in between."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[-1]), restval="")
    writer.writeheader()
    writer.writerows(rows)
    with replacing(path) as file:
        file.write(text.getvalue().encode())


class RunLog:
    """Reports to the terminal and to RUN. With ``main=False`` (the other processes) it does nothing."""

    def __init__(self, out: Path, epochs: int, finished: int, main: bool) -> None:
        self.out, self.epochs, self.main = out, epochs, main
        self.started, self.finished = time.monotonic(), finished
        self.board = _tensorboard(out / "tensorboard", finished + 1) if main else None

    def say(self, text: str) -> None:
        """One line to the reader, past a progress bar if there is one."""
        if self.main:
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()

    def bar(self, steps: Iterable[Any], epoch: int, first: int, total: int) -> tqdm[Any]:
        """A progress bar over an epoch's steps from ``first`` on; silent where stderr is no terminal."""
        return tqdm(
            steps,
            desc=f"epoch {epoch + 1}/{self.epochs}",
            initial=first,
            total=total,
            leave=False,
            dynamic_ncols=True,
            disable=not (self.main and sys.stderr.isatty()),
        )

    def restore(self, history: list[Row]) -> None:
        """Write log.csv as the checkpoint has it: a kill may have come between the two."""
        if self.main and history:
            write_csv(self.out / "log.csv", history)

    def epoch(self, history: list[Row]) -> None:
        """Report the epoch that just ended: the last row of the run's history."""
        if not self.main:
            return
        write_csv(self.out / "log.csv", history)
        row = history[-1]
        if self.board:
            for name, value in row.items():
                if name not in ("epoch", "best"):
                    self.board.add_scalar(name.replace("_", "/", 1), value, row["epoch"])
            self.board.flush()
        self.say(self._line(row))

    def _line(self, row: Row) -> str:
        epoch = int(row["epoch"])
        an_epoch = (time.monotonic() - self.started) / (epoch - self.finished)
        left = an_epoch * (self.epochs - epoch)
        parts = " ".join(f"{name} {row[f'train_{name}']:.4f}" for name in PARTS[1:4])
        return (
            f"epoch {epoch}/{self.epochs}  loss {row['train_loss']:.4f} ({parts}) acc {row['train_acc']:.1%}"
            f"  |  val loss {row['val_loss']:.4f} acc {row['val_acc']:.1%} auc {row['val_auc']:.4f}"
            f"{' best' if row['best'] else ''}  |  lr {row['lr']:.2g}  {row['seconds']:.1f} s "
            f"({row['waiting']:.0%} waiting for images)  ETA {duration(left)}"
        )

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *error: object) -> None:
        if self.board:
            self.board.close()


def shown(means: list[float]) -> dict[str, str]:
    """The running means beside a progress bar."""
    return {name: f"{value:.4f}" for name, value in zip(PARTS, means, strict=True)}


def duration(seconds: float) -> str:
    """Hours, minutes and seconds for a person."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def _tensorboard(folder: Path, first_epoch: int) -> Any:
    """A writer that replaces what an interrupted run wrote from ``first_epoch`` on; None where not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        print("note: no TensorBoard log, for tensorboard is not installed (pip install tensorboard)", file=sys.stderr)
        return None
    return SummaryWriter(folder, purge_step=first_epoch)
