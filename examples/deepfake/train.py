"""Train a forgery detector: python examples/deepfake/train.py --data demo --variant tiny --out RUN (options: --help).

A run can be stopped at any time and resumed to the same weights. Everything random (order, flips, noise, dropout) is a
function of the seed, the epoch and the step, so a checkpoint holds only weights, Adam's moments and ``Progress``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from deepfake.common import cli
from deepfake.common.cli import UserError, reading_input
from deepfake.common.interrupt import Interrupt
from deepfake.data import open_split
from deepfake.dataset.images import Images
from deepfake.dataset.readers import ReaderEnded
from deepfake.dataset.subset import of_methods
from deepfake.training.checkpoint import BEST, CONFIG, has_best
from deepfake.training.distributed import Processes, ProcessLost, join, main_process
from deepfake.training.log import PARTS, Row, RunLog
from deepfake.training.loop import learning_rate, saving_where_readers_end, train_one_epoch, validate
from deepfake.training.placing import use_threads
from deepfake.training.run import Progress, Run, saved_config, start
from deepfake.training.settings import Settings, of_whole_batch, parse, settle, settle_resumed


def main(argv: Sequence[str] | None = None) -> None:
    """Train. Most errors occur in all processes: the main one reports them, and torchrun ends the others."""
    try:
        train_from(argv)
    except UserError as error:
        if not main_process() and not isinstance(error, (ReaderEnded, ProcessLost)):
            time.sleep(30)  # meanwhile the main process reports, and torchrun ends this one
        raise


def train_from(argv: Sequence[str] | None) -> None:
    """Read the arguments, start or resume the run, and train."""
    given, resume = parse(argv)
    if resume and "out" not in given:
        raise UserError("--resume needs --out RUN, the run to continue", exit_code=2)
    out = Path(given.get("out", ""))
    with reading_input():
        saved = saved_config(out) if resume else None
    if saved:
        settings = settle_resumed(of_whole_batch(given, saved.get("processes")), saved["arguments"], out / CONFIG)
    else:
        settings = settle(given)
    if not saved and main_process() and os.path.exists(out / CONFIG):
        raise UserError(f"{out} already holds a run: add --resume to continue it, or choose another --out", 2)

    use_threads(settings.threads)
    advice = f"; the steps since the last checkpoint of {out} are lost: continue with --resume"
    with join(settings.device, advice) as processes:
        settings = settings.over(processes.world)
        with processes.only_main_prints(), reading_input():
            data = open_splits(settings)
        check(settings, processes, data["train"])
        run = start(settings, processes, data["train"], saved)
        with run.folder(fresh=saved is None):
            log = RunLog(run.out, settings.epochs, run.progress.epoch, processes.is_main)
            announce(run, data, log)
            with Interrupt() as interrupt, closing(log):
                train(run, data, log, interrupt)


def open_splits(settings: Settings) -> dict[str, Images]:
    """The splits that a training reads, by name."""
    cache = Path(settings.cache) if settings.cache else None
    splits = ("train", "val", "test") if settings.watch_test else ("train", "val")
    data = {split: open_split(settings.data, split, settings.image_size, cache) for split in splits}
    return {split: of_methods(images, settings.methods) for split, images in data.items()}


def check(settings: Settings, processes: Processes, images: Images) -> None:
    """Refuse settings that do not fit the data, the device or the number of processes."""
    if settings.batch_size % processes.world:
        raise UserError(f"--batch-size {settings.batch_size} cannot be split over {processes.world} processes", 2)
    if settings.batch_size > len(images):
        raise UserError(
            f"--batch-size {settings.batch_size} is more than the {len(images)} images of the train split", 2
        )
    if settings.amp == "fp16" and processes.device.type != "cuda":
        raise UserError(f"--amp fp16 needs a GPU, not {processes.device}: wanted none or bf16", 2)


def announce(run: Run, data: dict[str, Images], log: RunLog) -> None:
    """Print what will be trained, and on which data."""
    parameters = sum(parameter.numel() for parameter in run.model.parameters())
    counts = ", ".join(f"{len(images)} images in {split}" for split, images in data.items())
    log.say(f"data: {data['train'].description} ({counts})")
    log.say(
        f"model: {run.settings.model} {run.settings.variant}, {parameters / 1e6:.2f} million parameters, "
        f"{run.settings.image_size} px, on {run.processes.device}"
        + (f" with {run.processes.world} processes" if run.processes.world > 1 else "")
    )
    if run.progress.epoch or run.progress.step:
        log.say(f"resuming after epoch {run.progress.epoch}, step {run.progress.step} of the next")


def train(run: Run, data: dict[str, Images], log: RunLog, interrupt: Interrupt) -> None:
    """Run the remaining epochs. After each: score the val split, keep the best weights, write a checkpoint."""
    progress = run.progress
    log.restore(progress.history)
    recover_best(run, log)
    while progress.epoch < run.settings.epochs:
        with saving_where_readers_end(run, interrupt):
            waiting = train_one_epoch(run, data["train"], log, interrupt)
            started = time.monotonic()
            scores = validate(run, data["val"], interrupt)
            watched = validate(run, data["test"], interrupt, "test") if "test" in data else {}
            progress.seconds += time.monotonic() - started

        rank = (scores["val_auc"], -scores["val_loss"])
        row: Row = {"epoch": progress.epoch + 1, "lr": learning_rate(run.settings, progress.epoch)}
        row |= {f"train_{name}": total / progress.step for name, total in zip(PARTS, progress.sums, strict=True)}
        row |= scores | watched | {"best": int(rank > progress.best), "seconds": round(progress.seconds, 3)}
        row["waiting"] = round(waiting, 4)
        if row["best"]:
            progress.best = rank
            run.save_best(row)
        progress.finish_epoch(row)
        run.save()
        log.epoch(progress.history)
    best = best_of(progress.history)
    log.say(f"best: epoch {best['epoch']}, val AUC {best['val_auc']:.4f}, in {run.out / BEST}")


def recover_best(run: Run, log: RunLog) -> None:
    """Where RUN/best is missing: write it again if last.pt has its weights, else say that they are lost."""
    progress = run.progress
    if not progress.history or run.processes.gather(has_best(run.out))[0]:
        return
    best = best_of(progress.history)
    if best is progress.history[-1] and progress.step == 0:
        run.save_best(best)
        log.say(f"{run.out / BEST} was missing; written again from the state of epoch {progress.epoch}")
    elif progress.epoch < run.settings.epochs:
        progress.best = Progress().best
        log.say(f"{run.out / BEST} is missing: it will hold the best of the epochs to come")
    else:
        raise UserError(
            f"{run.out / BEST} is missing, and the weights of epoch {best['epoch']}, the best, are nowhere else; "
            "continue with more --epochs, or train again"
        )


def best_of(history: list[Row]) -> Row:
    """The row of the epoch whose weights are in RUN/best: the last one marked so."""
    return [row for row in history if row["best"]][-1]


if __name__ == "__main__":
    cli.run(main)
