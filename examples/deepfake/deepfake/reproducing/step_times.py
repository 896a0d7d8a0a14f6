"""Times one training step and one scoring, as train.py does them: mixed precision, Adam, and several processes.

torchrun starts it as a program, with the files of the settings and of the result, to time the step that several
processes do together. Images are random: reading is timed apart (reading_times.py).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch

from ..common.cli import UserError
from ..common.files import write_json
from ..common.texts import read_json
from ..training.distributed import Processes, join, pick_device
from ..training.loop import autocast, to_network, train_step
from ..training.placing import choose_channels_last, place
from ..training.run import assemble, build_model
from ..training.settings import Settings

TIMED_STEPS = 3
MOST_ON_CPU = 4  # images of a timed step of the paper's variant: a whole batch takes long there
EXAMPLE = Path(__file__).parents[2]


class Measured(NamedTuple):
    """Of one model: seconds of a training step, seconds to score a batch, and bytes of a run."""

    training: float
    scoring: float
    room: int


def measure(settings: Settings, processes: int) -> Measured:
    """Time steps on random images, and count the bytes of last.pt and best/. UserError if a step fails.

    On a CPU the paper's variant is timed on a part of a batch.
    """
    if processes == 1:
        return measure_here(settings, Processes(0, 1, pick_device(settings.device)))
    with tempfile.TemporaryDirectory() as folder:
        given, result = (Path(folder) / name for name in ("settings.json", "result.json"))
        write_json(given, asdict(settings))
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        module = ["-m", "deepfake.reproducing.step_times", str(given), str(result)]
        paths = os.pathsep.join(filter(None, [str(EXAMPLE), os.environ.get("PYTHONPATH")]))
        done = subprocess.run(
            [sys.executable, *torchrun, *module], env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True
        )
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if "Error: " in line]
            errors.sort(key=lambda line: "UserError: " not in line)  # this project's own words first
            reason = errors[0].partition("Error: ")[2][:200] if errors else f"exit code {done.returncode}"
            raise UserError(f"a training step of {processes} processes fails here: {reason}")
        return Measured(**read_json(result))


def measure_here(settings: Settings, processes: Processes) -> Measured:
    """`measure` in one of the processes: all of them together do the steps."""
    device = processes.device
    batch = max(1, settings.batch_size // processes.world)
    timed = batch if device.type == "cuda" or settings.variant == "tiny" else min(batch, MOST_ON_CPU)
    model = build_model(settings, pretrained=False)
    model = place(model, device, choose_channels_last(settings.channels_last, device))
    run = assemble(settings, processes, model)
    pixels = torch.randint(0, 256, (timed, 3, settings.image_size, settings.image_size), dtype=torch.uint8)
    labels = torch.arange(timed) % 2

    def train() -> None:
        run.parallel.train()
        with processes.waiting():
            train_step(run, pixels, labels, stop=False)

    @torch.inference_mode()
    def score() -> None:
        run.model.eval()
        with autocast(run):
            run.model(to_network(run, pixels))

    with threads(settings.threads):
        training, scoring = (_seconds(work, device) * batch / timed for work in (train, score))
    return Measured(training, scoring, run_size(model))


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Compute with as many threads as train.py --threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def run_size(model: torch.nn.Module) -> int:
    """Bytes of the weights, twice (last.pt and best/), and of Adam's two moments of each parameter."""
    weights, moments = model.state_dict().values(), 2 * list(model.parameters())
    return sum(2 * tensor.nbytes for tensor in weights) + sum(tensor.nbytes for tensor in moments)


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    for step in range(TIMED_STEPS + 1):
        if step == 1:  # the first step allocates memory and chooses algorithms
            started = time.monotonic()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
    return (time.monotonic() - started) / TIMED_STEPS


def main(given: str, result: str) -> None:
    """Measure in torchrun's processes; the main one writes the result."""
    settings = Settings(**read_json(Path(given)))
    with join(settings.device) as processes:
        measured = measure_here(settings, processes)
        if processes.is_main:
            write_json(Path(result), measured._asdict())


if __name__ == "__main__":
    main(*sys.argv[1:])
