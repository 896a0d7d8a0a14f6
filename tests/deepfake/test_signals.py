"""Signals that end a command: one line, the exit code that schedulers expect, no work lost, no traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import train
from deepfake.common import cli
from deepfake.common.cli import UserError
from deepfake.common.interrupt import Interrupt, Terminated, held_back, raising_signals
from deepfake.common.workers import run_tasks
from deepfake.reproducing.steps import Step
from deepfake.training import placing
from tests.deepfake.scripts import SCRIPTS, environment
from tests.deepfake.short_trainings import arguments, last_state, train_small, write_images
from tests.deepfake.worker_signals import is_out_of_reach_of_ctrl_c

COMMANDS = sorted(file.name for file in SCRIPTS.glob("*.py"))


@pytest.mark.parametrize("command", COMMANDS)
def test_ctrl_c_while_a_command_imports_is_one_line(tmp_path: Path, command: str) -> None:
    """A stand-in for the first large package that each command imports sends it."""
    for package in ("numpy", "torch", "av"):
        (tmp_path / f"{package}.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\n")
        with (tmp_path / f"{package}.py").open("a") as file:
            file.write("while True: time.sleep(0.01)\n")
    env = environment()
    env["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{env['PYTHONPATH']}"
    process = subprocess.Popen(
        [sys.executable, SCRIPTS / command], stderr=subprocess.PIPE, text=True, env=env, preexec_fn=default_ctrl_c
    )
    assert process.communicate()[1] == "interrupted\n" and process.returncode == 130


def default_ctrl_c() -> None:
    """As in a terminal: a process that is started in the background ignores Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.parametrize(
    ("number", "code", "line"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated"), (signal.SIGUSR1, 138, "terminated")],
)
def test_signals_have_their_exit_codes(number: signal.Signals, code: int, line: str, capsys: Any) -> None:
    def main() -> None:
        os.kill(os.getpid(), number)
        time.sleep(60)

    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started the tests may have had it ignored
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as caught:
        cli.run(main)
    assert caught.value.code == code and capsys.readouterr().err == f"{line}\n"
    assert signal.getsignal(number) is before


def test_memory_that_ran_out_is_one_line(capsys: Any) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.run(lambda: [None] * sys.maxsize)  # type: ignore[arg-type,return-value]
    assert caught.value.code == 1 and capsys.readouterr().err == "error: memory ran out\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no device that is always full")
def test_output_that_cannot_be_written_is_one_line() -> None:
    """As `command > file` on a full disk; what is left to print is not tried again when Python ends."""
    command = [sys.executable, "-c", "from deepfake.common import cli; cli.run(lambda: print('a line'))"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment())
    assert (done.returncode, done.stderr) == (1, "error: cannot write the output: No space left on device\n")


def test_what_was_printed_before_a_full_disk_is_not_lost() -> None:
    """Python keeps what is printed to a pipe for a while; that a file could not be written is no reason to drop it."""
    lines = ("import errno, os", "from deepfake.common import cli", "def main():", "    print('an answer')",
             "    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), 'a.png')", "cli.run(main)")  # fmt: skip
    command = [sys.executable, "-c", "\n".join(lines)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert (done.returncode, done.stdout) == (1, "an answer\n")
    assert done.stderr == "error: cannot write a.png: No space left on device\n"


def test_a_second_ctrl_c_raises_at_once() -> None:
    with Interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt) as caught:
            interrupt.leave()
        assert not isinstance(caught.value, Terminated)


@pytest.mark.parametrize(
    "sent, raised",
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated), (signal.SIGUSR1, Terminated)],
)
def test_a_signal_to_another_thread_is_held_back_too(sent: signal.Signals, raised: type[BaseException]) -> None:
    """Any thread that does not block a signal may get it, such as a progress bar's; Python acts in the main one."""
    end, reached = threading.Event(), []
    other = threading.Thread(target=end.wait)
    other.start()
    try:
        with raising_signals():
            before = signal.getsignal(sent)
            with pytest.raises(raised):
                with held_back():
                    os.kill(os.getpid(), sent)
                    time.sleep(0.05)
                    reached.append("the end of the block")
                reached.append("what follows it")
            assert reached == ["the end of the block"] and signal.getsignal(sent) is before
    finally:
        end.set()
        other.join()


def test_ctrl_c_reaches_no_worker_of_a_pool_not_even_while_it_starts() -> None:
    assert list(run_tasks(is_out_of_reach_of_ctrl_c, [1, 2, 3], 2, "asking")) == [True] * 3
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_worker_of_a_pool_that_is_killed_ends_the_command_in_one_line() -> None:
    code = (
        "from deepfake.common import cli, workers\n"
        "from tests.deepfake.worker_signals import end_by_sigkill\n"
        "cli.run(lambda: len(list(workers.run_tasks(end_by_sigkill, range(9), 2, 'working'))))"
    )
    command = [sys.executable, "-c", code]
    process = subprocess.run(command, stderr=subprocess.PIPE, text=True, env=environment(), timeout=300)
    assert process.returncode == 1 and "Traceback" not in process.stderr
    assert process.stderr.splitlines()[-1].startswith("error: a worker process was killed (out of memory?)")


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_all_processes_of_a_training_saves_it(
    noise_images: Path, tmp_path: Path, sent: signal.Signals
) -> None:
    """Real processes that read images, in a group, as a terminal and a scheduler have them."""
    out = tmp_path / "run"
    options = arguments(noise_images, out, "--workers", "2", "--epochs", "500", "--checkpoint-every", "1")
    command = [sys.executable, SCRIPTS / "train.py", *options]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment(),
        start_new_session=True, preexec_fn=default_ctrl_c,
    )  # fmt: skip
    while not (out / "last.pt").exists() or last_state(out)["progress"]["step"] < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.killpg(process.pid, sent)
    errors = process.communicate()[1]
    assert process.returncode == 128 + sent and "Traceback" not in errors
    assert errors.splitlines()[-1] == ("interrupted" if sent == signal.SIGINT else "terminated")
    torch.load(out / "last.pt", weights_only=True)


@pytest.mark.slow
@pytest.mark.parametrize("moment", [0, 2, 5])
def test_ctrl_c_while_a_pool_starts_is_one_line(tmp_path: Path, moment: int) -> None:
    images = write_images(tmp_path / "images")
    command = [sys.executable, SCRIPTS / "cache.py", images, tmp_path / "cache", "--workers", "2"]
    for number in range(600):  # more than one chunk, so that there is a pool
        os.link(images / "train/real/000.png", images / f"train/real/more{number}.png")
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment(),
        start_new_session=True, preexec_fn=default_ctrl_c,
    )  # fmt: skip
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while len(children.read_text().split()) < 2 and process.poll() is None:  # the resource tracker is one
        time.sleep(0.001)
    time.sleep(0.1 * moment)
    os.killpg(process.pid, signal.SIGINT)
    errors = process.communicate()[1]
    assert "Traceback" not in errors, errors
    assert process.returncode == 130 and errors.splitlines()[-1] == "interrupted"


@pytest.mark.parametrize(
    ("wanted", "environment", "expected"),
    [
        (None, {}, 7),  # one per core
        (None, {"OMP_NUM_THREADS": "3"}, None),  # as torch has read it
        (None, {"OMP_NUM_THREADS": "1"}, None),
        (None, {"OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": "2"}, None),  # torchrun's too, which says so
        (5, {"OMP_NUM_THREADS": "3"}, 5),
    ],
)
def test_omp_num_threads_is_obeyed(
    monkeypatch: pytest.MonkeyPatch, wanted: int | None, environment: dict[str, str], expected: int | None
) -> None:
    for name in ("OMP_NUM_THREADS", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    set_to: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    monkeypatch.setattr(placing, "cores", lambda: 7)
    placing.use_threads(wanted)
    assert set_to == ([] if expected is None else [expected])


def test_a_training_uses_the_threads_that_omp_num_threads_names(
    noise_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def used(threads: int | None) -> None:
        raise UserError(f"{threads} threads")

    monkeypatch.setattr(train, "use_threads", used)
    with pytest.raises(UserError, match="2 threads"):
        train_small(noise_images, tmp_path / "run", "--threads", "2")


def test_a_step_that_is_terminated_has_the_time_to_save(tmp_path: Path) -> None:
    """reproduce.py is ended: its training gets SIGTERM too, and is waited for."""
    script = tmp_path / "step.py"
    script.write_text(
        "import os, pathlib, signal, sys, time\n"
        "def save(*_):\n"
        "    time.sleep(1)\n"
        f"    pathlib.Path({str(tmp_path / 'saved')!r}).touch()\n"
        "    sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "os.kill(os.getppid(), signal.SIGTERM)\n"
        "time.sleep(60)\n"
    )
    step = Step("train", str(script), (), done=lambda: False)
    with pytest.raises(SystemExit) as caught:
        cli.run(step.run)
    assert caught.value.code == 143 and (tmp_path / "saved").exists()
