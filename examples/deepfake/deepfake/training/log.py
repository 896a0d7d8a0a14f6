"""Reports of a run: a progress bar, a line per epoch, log.csv, and TensorBoard if it is installed."""

from __future__ import annotations

import csv
import io
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..common.cli import first_line
from ..common.files import replacing

LOG = "log.csv"
ESTIMATED_EPOCH = "PANET_ESTIMATED_EPOCH"
"""The environment variable by which reproduce.py passes its estimate, in seconds."""
Row = dict[str, float | int]
PARTS = ("loss", "classification", "reconstruction", "metric", "acc")
"""Averaged over the steps of an epoch; in the order in which ``train_step`` returns them."""


def write_csv(path: Path, rows: list[Row]) -> None:
    """Write all rows again, completely or not at all, so that the log holds each finished epoch once."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[-1]), restval="")
    writer.writeheader()
    writer.writerows(rows)
    with replacing(path) as file:
        file.write(text.getvalue().encode())


class RunLog:
    """Reports to the terminal and to files in RUN. With ``main=False`` (the other processes) it does nothing."""

    def __init__(self, out: Path, epochs: int, finished: int, main: bool) -> None:
        self.out, self.epochs, self.main = out, epochs, main
        self.started, self.finished = time.monotonic(), finished
        self.board = _tensorboard(out / "tensorboard", finished + 1) if main else None

    def say(self, text: str) -> None:
        """Print one line, without breaking a progress bar."""
        if self.main:
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()

    def bar(self, steps: Iterable[Any], epoch: int, first: int, total: int) -> tqdm[Any]:
        """A progress bar over an epoch's steps from ``first`` on; hidden if stderr is not a terminal."""
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
        """Write log.csv from the checkpoint: the run may have been killed between writing the two."""
        if self.main and history:
            write_csv(self.out / LOG, history)

    def epoch(self, history: list[Row]) -> None:
        """Report the epoch that just ended: the last row of the run's history."""
        if not self.main:
            return
        write_csv(self.out / LOG, history)
        row = history[-1]
        with self._board_may_fail():
            board: Any = self.board
            for name, value in row.items() if board else ():
                if name not in ("epoch", "best"):
                    board.add_scalar(name.replace("_", "/", 1), value, row["epoch"])
            if board:
                board.flush()
        self.say(self._line(row))
        estimated = os.environ.get(ESTIMATED_EPOCH)
        if estimated and row["epoch"] == self.finished + 1:  # the first of this session
            self.say(error_of_estimate(float(estimated), float(row["seconds"])))

    @contextmanager
    def _board_may_fail(self) -> Iterator[None]:
        """End TensorBoard's log, and nothing else, where writing it fails: its thread raises its errors here, later."""
        try:
            yield
        except Exception as error:
            self.board = None
            print(f"note: no TensorBoard log from here on: {first_line(error)}", file=sys.stderr)

    def _line(self, row: Row) -> str:
        epoch = int(row["epoch"])
        an_epoch = (time.monotonic() - self.started) / (epoch - self.finished)
        left = an_epoch * (self.epochs - epoch)
        parts = " ".join(f"{name} {row[f'train_{name}']:.4f}" for name in PARTS[1:4])
        return (
            f"epoch {epoch}/{self.epochs}  loss {row['train_loss']:.4f} ({parts}) acc {row['train_acc']:.1%}"
            f"  |  val loss {row['val_loss']:.4f} acc {row['val_acc']:.1%} auc {row['val_auc']:.4f}"
            f"{' best' if row['best'] else ''}  |  lr {row['lr']:.2g}  {row['seconds']:.1f} s "
            f"({row['waiting']:.0%} waiting for images)  ETA {timedelta(seconds=round(left))}"
        )

    def close(self) -> None:
        """End TensorBoard's file."""
        with self._board_may_fail():
            if self.board:
                self.board.close()


def error_of_estimate(estimated: float, taken: float) -> str:
    """One line that compares the time of an epoch with its estimate, both in seconds."""
    return f"an epoch: estimated {estimated:.1f} s, taken {taken:.1f} s, ratio {taken / estimated:.2f}"


def _tensorboard(folder: Path, first_epoch: int) -> Any:
    """A writer that replaces what an interrupted run wrote from ``first_epoch`` on; None if it cannot be had."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        print("note: no TensorBoard log: tensorboard is not installed (pip install tensorboard)", file=sys.stderr)
        return None
    except Exception as error:  # of an installation whose parts do not fit together
        print(f"note: no TensorBoard log: {first_line(error)}", file=sys.stderr)
        return None
    hook = threading.excepthook
    threading.excepthook = lambda raised: None if _of_tensorboard(raised.thread) else hook(raised)
    try:
        return SummaryWriter(folder, purge_step=first_epoch)
    except Exception as error:
        print(f"note: no TensorBoard log: {first_line(error)}", file=sys.stderr)
        return None


def _of_tensorboard(thread: threading.Thread | None) -> bool:
    """Whether a thread is TensorBoard's writer: it prints its error, and raises it again where RunLog reports it."""
    return type(thread).__module__.startswith("tensorboard")
