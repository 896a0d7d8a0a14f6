"""The steps of a long experiment: commands that run once, resume after a stop, and can run on any machine."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..common.cli import UserError
from ..common.interrupt import ENDING, Terminated, exception_of
from ..training.log import ESTIMATED_EPOCH

HERE = Path(__file__).parents[2]


@dataclass(frozen=True)
class Step:
    """One of the example's commands, as a person would type it.

    Args:
        name: what it does: "train c23 panet seed 0".
        script, arguments: the command.
        done: whether its results exist.
        needs: earlier steps that must be done.
        started_file: a file that exists once the command has started; the command then gets --resume.
        processes: if more than one, the command runs under torchrun.
    """

    name: str
    script: str
    arguments: tuple[object, ...]
    done: Callable[[], bool]
    needs: tuple[Step, ...] = ()
    started_file: Path | None = None
    processes: int = 1

    def command(self) -> list[str]:
        """What to type after `python`."""
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={self.processes}"]
        launcher = torchrun if self.processes > 1 else []
        resume = ["--resume"] if self.started_file is not None and self.started_file.exists() else []
        return [*launcher, os.path.relpath(HERE / self.script), *map(str, self.arguments), *resume]

    def run(self, epoch: float | None = None) -> None:
        """Run the command. UserError where it fails or an earlier step that it needs is not done.

        `epoch`: the estimate of a training's seconds an epoch, which train.py compares with the first.
        """
        left = [step.name for step in self.needs if not step.done()]
        if left:
            raise UserError(f"step {self.name!r} needs step {left[0]!r}, which is not done")
        given = {} if epoch is None else {ESTIMATED_EPOCH: str(epoch)}
        code = _run([sys.executable, *self.command()], os.environ | given, under_torchrun=self.processes > 1)
        for number in ENDING:
            if code in (128 + number, -number):
                raise exception_of(number)
        if code:
            raise UserError(f"step {self.name!r} ended with exit code {code}; repeat the command to continue there")


def _run(command: list[str], environment: Mapping[str, str], under_torchrun: bool = False) -> int:
    """Run a command; its exit code. A signal that ends this process ends it too, once it has saved what it has done.

    torchrun would end at SIGUSR1 before its processes have saved. Here it ignores that, and gets SIGTERM from us.
    """
    prepare = _ignore_sigusr1 if under_torchrun and hasattr(signal, "SIGUSR1") else None
    with subprocess.Popen(command, env=environment, preexec_fn=prepare) as process:
        try:
            return process.wait()
        except KeyboardInterrupt as request:
            if isinstance(request, Terminated):  # Ctrl-C reaches both
                process.terminate()
            process.wait()
            raise


def _ignore_sigusr1() -> None:
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def print_plan(steps: Sequence[Step]) -> None:
    """Print every step: its number, whether it is done, its name and its command."""
    for number, step in enumerate(steps, 1):
        done = "done" if step.done() else "    "
        print(f"{number:>4}  {done}  {step.name:<34} python {shlex.join(step.command())}")


def run_steps(steps: Sequence[Step], epochs: Mapping[str, float]) -> None:
    """Run the steps that are not done, in order; `epochs` are the estimated seconds an epoch of trainings, by name."""
    for number, step in enumerate(steps, 1):
        if step.done():
            print(f"== {number}/{len(steps)} {step.name}: done already", flush=True)
            continue
        print(f"== {number}/{len(steps)} {step.name}: python {shlex.join(step.command())}", flush=True)
        step.run(epochs.get(step.name))


def numbered(steps: Sequence[Step], number: int) -> Step:
    """The step of a number from 1. UserError if the plan has none."""
    if not 1 <= number <= len(steps):
        raise UserError(f"--step {number}: the plan has the steps 1 to {len(steps)}", exit_code=2)
    return steps[number - 1]


def run_step(steps: Sequence[Step], number: int) -> None:
    """Run one step, by its number from 1, unless it is done; a job of an array does this."""
    step = numbered(steps, number)
    print(f"== {number}/{len(steps)} {step.name}", flush=True)
    if not step.done():
        step.run()
