"""Processes that read batches ahead. Whatever happens to one, the command that waits for it ends with one line.

Each process has a connection of its own: a process that dies closes it, even in the middle of a batch. The workers of
torch's DataLoader share one queue, and move batches through /dev/shm, which containers limit to 64 MB.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from io import BufferedReader
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..common.cli import UserError
from ..common.interrupt import ENDING, held_back
from ..common.workers import end_with_parent

SENT_AHEAD = 2**20
"""Bytes of a batch that may be on the way, as far as the system allows: fewer take more changes of process."""


class ReaderEnded(UserError):
    """A process that reads batches has ended too soon."""


class _Reader(NamedTuple):
    process: BaseProcess
    connection: BufferedReader


def read_ahead(batches: Dataset[Any], steps: Sequence[int], workers: int) -> Iterator[tuple[Tensor, ...]]:
    """``batches[step]`` of each step, read by `workers` processes, which are ended with this iterator.

    UserError that names an image which cannot be read; ReaderEnded where a process was killed.
    """
    readers: list[_Reader] = []
    end = Finalize(None, _end, (readers, os.getpid()), exitpriority=10)
    try:
        for number in range(min(workers, len(steps))):
            readers.append(_start(batches, steps[number::workers]))
        for turn in range(len(steps)):
            found = _receive(readers[turn % len(readers)], workers)
            if isinstance(found, UserError):
                raise found
            yield tuple(map(torch.from_numpy, found))
    finally:
        end()


def _start(batches: Dataset[Any], steps: Sequence[int]) -> _Reader:
    receiving, sending = socket.socketpair()
    sending.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SENT_AHEAD)
    process = multiprocessing.Process(target=_read, args=(batches, steps, sending), daemon=True)
    try:
        with held_back():
            process.start()
    except OSError as error:
        raise UserError(f"cannot start a process that reads images: {error.strerror}; use fewer --workers") from error
    finally:
        sending.close()  # the reader has the only one: when it ends, so does the connection
    with receiving:
        return _Reader(process, receiving.makefile("rb"))


def _read(batches: Dataset[Any], steps: Sequence[int], sending: socket.socket) -> None:
    """Send the batches of these steps, and last an error, if there is one."""
    for number in ENDING:  # they reach every process; the main one ends the others
        signal.signal(number, signal.SIG_IGN)
    end_with_parent()
    torch.set_num_threads(1)
    with suppress(ConnectionError), sending.makefile("wb") as connection:  # nobody waits any more
        try:
            for step in steps:
                _send(connection, [part.numpy() for part in batches[step]])  # tensors would go through shared memory
        except UserError as error:
            _send(connection, error)
        except MemoryError:
            _send(connection, UserError("memory ran out while images were read; use fewer --workers"))
        except ConnectionError:
            raise
        except Exception as error:
            _send(connection, UserError(f"images cannot be read: {type(error).__name__}: {error}"))


def _send(connection: BinaryIO, value: Any) -> None:
    """Write a value: its arrays beside it, so that they are copied once on each side."""
    arrays: list[pickle.PickleBuffer] = []
    content = pickle.dumps(value, protocol=5, buffer_callback=arrays.append)
    pickle.dump((content, [array.raw().nbytes for array in arrays]), connection)
    for array in arrays:
        connection.write(array.raw())
    connection.flush()


def _receive(reader: _Reader, workers: int) -> Any:
    try:
        content, sizes = pickle.load(reader.connection)
        arrays = [np.empty(size, np.uint8) for size in sizes]
        if any(reader.connection.readinto(array.data) < len(array) for array in arrays):
            raise EOFError
        return pickle.loads(content, buffers=arrays)
    except (EOFError, OSError, pickle.UnpicklingError):
        reader.process.join(timeout=5)
        code = reader.process.exitcode or 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        advice = f"use fewer --workers than {workers}; --workers 0 reads in the main process"
        raise ReaderEnded(f"a process that reads images {how} (did memory run out? {advice})") from None


def _end(readers: list[_Reader], owner: int) -> None:
    """End the processes, which write nothing. A fork of the process that started them leaves them alone."""
    if os.getpid() != owner:
        return
    for reader in readers:
        reader.process.kill()
        reader.connection.close()
    for reader in readers:
        reader.process.join()
    readers.clear()
