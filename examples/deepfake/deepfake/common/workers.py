"""Runs independent tasks in this process or in worker processes, in order and with a progress bar."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from typing import NoReturn, TypeVar

import cv2
from tqdm import tqdm

from .cli import UserError
from .interrupt import held_back

LOG_SECONDS = 30  # between two lines of progress that go to a file

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """The number of CPU cores that this process may use: its share, if torchrun started several processes."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, found // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def run_tasks(
    function: Callable[[Item], Result], tasks: Sequence[Item], workers: int, description: str
) -> Iterator[Result]:
    """Yield function(task) in the order of the tasks; with 2 or more workers, in that many processes.

    An error in a task stops the rest: tasks that run are finished, no other is started. Ctrl-C and
    what schedulers send stop all at once.
    """
    between = 0.1 if sys.stderr.isatty() else LOG_SECONDS
    with tqdm(total=len(tasks), desc=description, unit="", dynamic_ncols=True, mininterval=between) as bar:
        if workers <= 1 or len(tasks) <= 1:
            _single_threaded()
            for task in tasks:
                yield function(task)
                bar.update()
            return
        context = multiprocessing.get_context("spawn")  # OpenCV's and FFmpeg's threads do not survive a fork
        pool = ProcessPoolExecutor(min(workers, len(tasks)), mp_context=context, initializer=_begin_worker)
        try:
            with held_back():
                futures = deque(pool.submit(function, task) for task in tasks)
            while futures:
                yield futures.popleft().result()
                bar.update()
        except BrokenProcessPool:
            _kill_children()  # the pool's own SIGTERM does not reach them
            raise UserError("a worker process was killed (out of memory?); run the command again to continue") from None
        except KeyboardInterrupt:
            _kill_children()
            pool.shutdown()  # before what waits is cancelled: both at once are a traceback in Python 3.11
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _kill_children() -> None:
    """End all processes that this one has started: safe, since files are written completely or not at all."""
    for process in multiprocessing.active_children():
        process.kill()


def end_with_parent() -> None:
    """Let this process, which another has started, end when that one is killed: nobody else would end it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: BaseProcess) -> NoReturn:
    parent.join()
    os._exit(1)


def _begin_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; only the parent reacts
    end_with_parent()
    _single_threaded()


def _single_threaded() -> None:
    """Let OpenCV use one thread: more would compete with the other workers."""
    cv2.setNumThreads(1)
