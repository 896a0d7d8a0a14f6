"""A long experiment as a list of commands: each is run once, goes on where it was stopped, and may run anywhere."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..common.cli import UserError

HERE = Path(__file__).parents[2]


@dataclass(frozen=True)
class Step:
    """One command of this folder, as a person would type it.

    Args:
        name: what it does, in a few words.
        script, arguments: the command.
        done: whether its results are there.
        needs: earlier steps that must be done.
        begun: a file that is there once the command was started; it is then given --resume.
        processes: more than one run the command under torchrun.
    """

    name: str
    script: str
    arguments: tuple[str, ...]
    done: Callable[[], bool]
    needs: tuple[Step, ...] = ()
    begun: Path | None = None
    processes: int = 1

    def command(self) -> list[str]:
        """What to type after `python`."""
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={self.processes}"]
        launcher = torchrun if self.processes > 1 else []
        resume = ["--resume"] if self.begun is not None and self.begun.exists() else []
        return [*launcher, os.path.relpath(HERE / self.script), *self.arguments, *resume]

    def run(self) -> None:
        """Run the command. UserError where it fails or an earlier step that it needs is not done."""
        left = [step.name for step in self.needs if not step.done()]
        if left:
            raise UserError(f"step {self.name!r} needs step {left[0]!r}, which is not done")
        code = subprocess.run([sys.executable, *self.command()], check=False).returncode
        if code in (130, -2):  # Ctrl-C reached the command too
            raise KeyboardInterrupt
        if code:
            raise UserError(f"step {self.name!r} ended with exit code {code}; the same command goes on from there")


def run_steps(steps: Sequence[Step]) -> None:
    """Run those that are not done, in order."""
    for number, step in enumerate(steps, 1):
        if step.done():
            print(f"== {number}/{len(steps)} {step.name}: done already", flush=True)
            continue
        print(f"== {number}/{len(steps)} {step.name}: python {shlex.join(step.command())}", flush=True)
        step.run()


def run_step(steps: Sequence[Step], number: int) -> None:
    """Run one of the steps, by its number from 1, as a job of an array does."""
    if not 1 <= number <= len(steps):
        raise UserError(f"--step {number}: the plan has the steps 1 to {len(steps)}", exit_code=2)
    step = steps[number - 1]
    print(f"== {number}/{len(steps)} {step.name}", flush=True)
    if not step.done():
        step.run()
