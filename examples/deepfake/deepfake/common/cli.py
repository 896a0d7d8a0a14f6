"""The command line of all commands: errors of one line, exit codes, argument types that check their value."""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from .interrupt import Terminated, raising_signals

LONGEST_MESSAGE = 2000  # letters
OF_A_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class UserError(Exception):
    """An error that the user can correct, reported in one line.

    Args:
        message: names the wrong value or file and what was wanted. Of a long one, such as with a name of thousands of
            letters in a file that others made, the middle is left out.
        exit_code: 1 for a failure, 2 for bad arguments.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        if len(message) > LONGEST_MESSAGE:
            message = f"{message[: LONGEST_MESSAGE // 2]} ... {message[-LONGEST_MESSAGE // 2 :]}"
        super().__init__(message)
        self.exit_code = exit_code


def first_line(error: BaseException) -> str:
    """What an error of a library says, in one short line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def to_stderr(text: str) -> None:
    """Print one line on standard error, whatever the names in it hold."""
    print(" ".join(text.split()), file=sys.stderr, flush=True)


_said: set[str] = set()


def to_stderr_once(text: str) -> None:
    """Print one line on standard error, unless this process has printed it before."""
    if text not in _said:
        _said.add(text)
        to_stderr(text)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that keeps its description's lines; its errors are one line (no usage text), exit code 2."""

    def __init__(self, formatter_class: Any = argparse.RawDescriptionHelpFormatter, **options: Any) -> None:
        super().__init__(formatter_class=formatter_class, **options)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see --help)", exit_code=2)


def run(main: Callable[[], int | None]) -> NoReturn:
    """Call ``main`` and exit with what it returns, or 0; after a UserError with its code, and ``error: ...``.

    130 after Ctrl-C; 143 after SIGTERM and 138 after SIGUSR1, with which schedulers end a job.
    """
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may hold bytes that cannot be printed
    try:
        with raising_signals():
            code = main() or 0
            sys.stdout.flush()
    except UserError as error:
        to_stderr(f"error: {error}")
        code = error.exit_code
    except Terminated as signalled:
        print("terminated", file=sys.stderr)
        code = 128 + signalled.number
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    except MemoryError:
        print("error: memory ran out", file=sys.stderr)
        code = 1
    except BrokenPipeError:  # the program that reads the output has ended, as in `| head`
        _drop_output()
        code = 1
    except OSError as error:
        if error.errno not in OF_A_DISK:
            raise
        _drop_output()
        to_stderr(f"error: cannot write {error.filename or 'the output'}: {error.strerror}")
        code = 1
    sys.exit(code)


def _drop_output() -> None:
    """Let what is still to be printed go nowhere if it cannot be written: Python would try again at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(io.UnsupportedOperation):  # of a stand-in for stdout
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def reading_input() -> Iterator[None]:
    """Give a UserError inside exit code 2, as for bad arguments: the input is wrong, and no work has started."""
    try:
        yield
    except UserError as error:
        error.exit_code = 2
        raise


def _number(kind: type, wanted: str, accept: Callable[[float], bool]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}") from None
        in_range = abs(value) < 2**63 if kind is int else math.isfinite(value)
        if not in_range or not accept(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
        return value

    return parse


positive_int = _number(int, "a whole number of at least 1", lambda value: value >= 1)
non_negative_int = _number(int, "a whole number of at least 0", lambda value: value >= 0)
positive_float = _number(float, "a number above 0", lambda value: value > 0)
non_negative_float = _number(float, "a number of at least 0", lambda value: value >= 0)


def non_empty(text: str) -> str:
    """An argparse type: a text that is not empty. As a path, an empty one would mean the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("is empty: give a name")
    return text


def path(text: str) -> Path:
    """An argparse type: a path that is not empty."""
    return Path(non_empty(text))


def in_range(kind: type, low: float, high: float) -> Callable[[str], float]:
    """An argparse type: a number from `low` to `high`."""
    name = "a whole number" if kind is int else "a number"
    return _number(kind, f"{name} from {low} to {high}", lambda value: low <= value <= high)
