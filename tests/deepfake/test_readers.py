"""Processes that read batches: whatever happens to one, the command ends with one line; none outlives its reader."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import select
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from deepfake.common.cli import UserError
from deepfake.common.interrupt import ENDING
from deepfake.dataset.readers import ReaderEnded, read_ahead

LARGE = (4, 3, 512, 512)  # more than is sent ahead


class Numbered:
    """Batches that hold their number; `act` is called in the process that reads number 3."""

    def __init__(self, act: Callable[[], Any] = lambda: None, shape: tuple[int, ...] = (2,)) -> None:
        self.act, self.shape = act, shape

    def __getitem__(self, step: int) -> tuple[Tensor, ...]:
        if step == 3:
            self.act()
        return torch.full(self.shape, step % 256, dtype=torch.uint8), torch.tensor([step])


def read(numbered: Any, steps: int = 8, workers: int = 2) -> list[int]:
    return [int(number) for _, number in read_ahead(numbered, range(steps), workers)]


@pytest.mark.parametrize("workers", [1, 2, 3, 9])
@pytest.mark.parametrize("shape", [(2,), LARGE], ids=["small", "large"])
def test_batches_come_in_order(workers: int, shape: tuple[int, ...]) -> None:
    found = list(read_ahead(Numbered(shape=shape), range(1, 6), workers))
    assert [int(number) for _, number in found] == [1, 2, 3, 4, 5]
    assert all(pixels.shape == shape and (pixels == number).all() for pixels, number in found)
    assert not multiprocessing.active_children()


def kill_self(number: int) -> None:
    faulthandler.disable()  # pytest's would print where
    os.kill(os.getpid(), number)
    time.sleep(60)  # until it arrives


@pytest.mark.parametrize(
    ("act", "how"),
    [
        (lambda: kill_self(signal.SIGKILL), "was killed by SIGKILL"),
        (lambda: kill_self(signal.SIGSEGV), "was killed by SIGSEGV"),
        (lambda: kill_self(signal.SIGBUS), "was killed by SIGBUS"),
        (lambda: os._exit(0), "ended with exit code 0"),
        (lambda: os._exit(3), "ended with exit code 3"),
    ],
    ids=["SIGKILL", "SIGSEGV", "SIGBUS", "exit 0", "exit 3"],
)
def test_a_reader_that_dies_is_one_line(act: Callable[[], Any], how: str) -> None:
    with pytest.raises(ReaderEnded, match=f"{how} .*--workers") as caught:
        read(Numbered(act))
    assert "\n" not in str(caught.value) and not multiprocessing.active_children()


def test_a_reader_that_dies_in_the_middle_of_a_batch_is_one_line() -> None:
    """The other one still holds its own connection, and sends; a queue of both would wait for the rest of the batch."""
    batches = read_ahead(Numbered(shape=LARGE), range(8), 2)
    next(batches)
    time.sleep(0.5)  # each has a batch, and has sent its beginning
    for process in multiprocessing.active_children():
        process.kill()
        process.join()
    with pytest.raises(ReaderEnded, match="was killed by SIGKILL"):
        next(batches)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (UserError("a.png: not readable"), "a.png: not readable"),
        (MemoryError(), "memory ran out while images were read; use fewer --workers"),
        (ValueError("odd"), "images cannot be read: ValueError: odd"),
    ],
    ids=["UserError", "MemoryError", "ValueError"],
)
def test_an_error_in_a_reader_is_one_line(error: Exception, message: str) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(UserError) as caught:
        read(Numbered(fail))
    assert str(caught.value) == message and not multiprocessing.active_children()


def test_no_shared_memory_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container has 64 MB of it by default: less than the batches that four workers read ahead."""

    def full(*_: Any) -> None:
        raise RuntimeError("unable to write to file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(torch.UntypedStorage, "_share_fd_cpu_", full)
    monkeypatch.setattr(torch.UntypedStorage, "_share_filename_cpu_", full)
    assert read(Numbered(shape=LARGE)) == list(range(8))


def test_signals_to_all_processes_do_not_end_a_reader() -> None:
    """Ctrl-C, SIGTERM and SIGUSR1 reach every process of a job; the main one finishes its step first."""
    batches = read_ahead(Numbered(), range(1000), 2)
    next(batches)
    for process in multiprocessing.active_children():
        for number in ENDING:
            os.kill(process.pid or 0, number)
    assert len(list(batches)) == 999


def test_readers_end_with_their_iterator() -> None:
    batches = read_ahead(Numbered(), range(1000), 2)
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    batches.close()  # type: ignore[attr-defined]
    assert not multiprocessing.active_children()


def test_readers_end_with_a_command_that_is_killed() -> None:
    """A pipe that all of them hold closes when the last has ended."""
    reading, writing = os.pipe()

    def command() -> None:
        os.close(reading)
        next(read_ahead(Numbered(shape=LARGE), range(1000), 3))
        os.write(writing, b".")
        time.sleep(600)

    process = multiprocessing.get_context("fork").Process(target=command)
    process.start()
    os.close(writing)
    assert os.read(reading, 1) == b"."
    process.kill()
    process.join()
    assert select.select([reading], [], [], 60)[0] and not os.read(reading, 1)
    os.close(reading)
