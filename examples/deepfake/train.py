"""Train a forgery detector: python train.py --data demo --variant tiny --out RUN (--help tells the rest).

Reads top to bottom: ``train`` runs the epochs, ``train_one_epoch`` the steps of one, ``validate`` scores the val split.
A run can be stopped at any time and resumed to the same weights. All that is random (order, flips, noise, dropout) is
a function of the seed, the epoch and the step, so a checkpoint needs weights, Adam's moments and ``Progress``, no more.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deepfake.common import cli
from deepfake.common.cli import UserError, reading_input
from deepfake.common.interrupt import Interrupt
from deepfake.common.workers import cores
from deepfake.dataset.batches import EvalBatches, TrainBatches, Waited, load, seed_for
from deepfake.dataset.images import Images, open_split, to_unit_range
from deepfake.dataset.subset import of_methods
from deepfake.evaluating.metrics import binary_metrics
from deepfake.evaluating.scoring import AMP_DTYPES
from deepfake.training import settings as config
from deepfake.training.checkpoint import BEST, CONFIG
from deepfake.training.distributed import Processes, join, main_process
from deepfake.training.log import PARTS, Row, RunLog, shown
from deepfake.training.run import Run, saved_config, start
from deepfake.training.settings import Settings


def train(run: Run, data: dict[str, Images], log: RunLog, interrupt: Interrupt) -> None:
    """Run the epochs that are left; after each, score the val split, keep the best weights, write a checkpoint."""
    progress = run.progress
    log.restore(progress.history)
    while progress.epoch < run.settings.epochs:
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
    best = [row for row in progress.history if row["best"]][-1]
    log.say(f"best: epoch {best['epoch']}, val AUC {best['val_auc']:.4f}, in {run.out / BEST}")


def train_one_epoch(run: Run, images: Images, log: RunLog, interrupt: Interrupt) -> float:
    """The steps of one epoch, from where ``progress`` stands, then a checkpoint. KeyboardInterrupt after Ctrl-C.

    Returns the share of the time that was spent on waiting for images: near 0 where the readers keep up.
    """
    settings, processes, progress = run.settings, run.processes, run.progress
    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate(settings, progress.epoch)
    run.parallel.train()
    batches = TrainBatches(images, settings.batch_size, settings.seed, progress.epoch, processes.rank, processes.world)
    pin = processes.device.type == "cuda"
    steps = Waited(load(batches, workers(settings), first=progress.step, pin=pin))
    before, started = progress.seconds, time.monotonic() - progress.seconds
    with log.bar(steps, progress.epoch, progress.step, len(batches)) as bar:
        for pixels, labels, _ in bar:
            torch.manual_seed(seed_for(settings.seed, progress.epoch, progress.step, processes.rank))
            *parts, stop = train_step(run, pixels, labels, interrupt.requested)
            progress.step += 1
            progress.sums = [total + part for total, part in zip(progress.sums, parts, strict=True)]
            progress.seconds = time.monotonic() - started
            bar.set_postfix(shown([total / progress.step for total in progress.sums]), refresh=False)
            if stop or progress.step == len(batches) or progress.step % (settings.checkpoint_every or math.inf) == 0:
                run.save()
            if stop:
                log.say(f"stopped in epoch {progress.epoch + 1}, after step {progress.step}; --resume goes on")
                raise KeyboardInterrupt
    return steps.seconds / max(progress.seconds - before, 1e-9)


def train_step(run: Run, pixels: Tensor, labels: Tensor, stop: bool) -> list[float]:
    """One step of Adam. Returns the means over the processes of PARTS and of ``stop`` (above 0: one wants to stop)."""
    settings, progress, device = run.settings, run.progress, run.processes.device
    images = to_network(pixels, settings, device)
    labels = labels.to(device, non_blocking=True)
    with torch.autocast(device.type, AMP_DTYPES[settings.amp], enabled=settings.amp != "none"):
        output = run.parallel(images)
        losses = run.loss(output, images, labels)
    accuracy = ((output.logits[:, 0] > 0) == labels.bool()).float().mean()
    with torch.no_grad():
        values = run.processes.mean(torch.stack([*losses, accuracy, accuracy.new_tensor(stop)])).tolist()
    if not all(map(math.isfinite, values)):
        where = f"epoch {progress.epoch + 1}, step {progress.step + 1}"
        parts = ", ".join(f"{name} {value:.4g}" for name, value in zip(PARTS, values, strict=False))
        raise UserError(f"the loss is not finite at {where} ({parts}); the last checkpoint is kept in {run.out}")

    run.optimizer.zero_grad(set_to_none=True)
    run.scaler.scale(losses.total).backward()
    if settings.clip_grad is not None:
        run.scaler.unscale_(run.optimizer)
        torch.nn.utils.clip_grad_norm_(run.model.parameters(), settings.clip_grad)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    return values


@torch.inference_mode()
def validate(run: Run, images: Images, interrupt: Interrupt, split: str = "val") -> dict[str, float]:
    """Classification loss, accuracy and AUC of a split, each process scoring its share of the images."""
    settings, processes = run.settings, run.processes
    run.model.eval()
    indices, logits = [np.empty(0, np.int64)], [np.empty(0)]  # a process may have no image
    batches = EvalBatches(images, settings.batch_size, processes.rank, processes.world)
    for pixels, _, places in load(batches, workers(settings), pin=processes.device.type == "cuda"):
        if interrupt.requested:  # the epoch's steps are saved: resuming comes back to here
            raise KeyboardInterrupt
        with torch.autocast(processes.device.type, AMP_DTYPES[settings.amp], enabled=settings.amp != "none"):
            output = run.model(to_network(pixels, settings, processes.device))
        logits.append(output.logits[:, 0].double().cpu().numpy())
        indices.append(places.numpy())
    scores = np.full(len(images), np.nan)
    for places, values in processes.gather((np.concatenate(indices), np.concatenate(logits))):
        scores[places] = values
    if not np.isfinite(scores).all():
        raise UserError(f"the scores of the {split} split are not finite after epoch {run.progress.epoch + 1}")
    labels, outputs = torch.from_numpy(images.labels), torch.from_numpy(scores)
    metrics = binary_metrics(images.labels, outputs.sigmoid().numpy())
    loss = F.binary_cross_entropy_with_logits(outputs, labels.double()).item()
    return {f"{split}_loss": loss, f"{split}_acc": float(metrics["acc"]), f"{split}_auc": float(metrics["auc"])}


def learning_rate(settings: Settings, epoch: int) -> float:
    """StepLR, as a function of the epochs finished."""
    return settings.lr * settings.lr_gamma ** (epoch // settings.lr_step)


def to_network(pixels: Tensor, settings: Settings, device: torch.device) -> Tensor:
    """uint8 pixels as the network takes them."""
    images = to_unit_range(pixels.to(device, non_blocking=True))
    return images.contiguous(memory_format=torch.channels_last) if settings.channels_last else images


def local_cores() -> int:
    """The cores that are this process's share of the machine."""
    return max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def workers(settings: Settings) -> int:
    """Processes that read images; the demo's are in memory."""
    if settings.workers is not None:
        return settings.workers
    return 0 if settings.data == "demo" else min(4, local_cores())


def check(settings: Settings, processes: Processes, images: Images) -> None:
    """Refuse what the settings alone could not tell."""
    if settings.batch_size % processes.world:
        raise UserError(f"--batch-size {settings.batch_size} cannot be split over {processes.world} processes", 2)
    if settings.batch_size > len(images):
        raise UserError(f"--batch-size {settings.batch_size} is more than the {len(images)} images of the train split")
    if settings.amp == "fp16" and processes.device.type != "cuda":
        raise UserError(f"--amp fp16 needs a GPU, not {processes.device}: wanted none or bf16", 2)


def announce(run: Run, data: dict[str, Images], log: RunLog) -> None:
    """Say what is about to be trained, on what."""
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


def train_from(argv: Sequence[str] | None) -> None:
    """Parse the arguments, start or resume the run, train."""
    given, resume = config.parse(argv)
    if resume and "out" not in given:
        raise UserError("--resume needs --out RUN, the run to continue", exit_code=2)
    out = Path(given.get("out", ""))
    with reading_input():
        saved = saved_config(out) if resume else None
    settings = config.settle_resumed(given, saved["arguments"], out / CONFIG) if saved else config.settle(given)
    if not saved and main_process() and (Path(settings.out) / CONFIG).exists():
        raise UserError(f"{settings.out} already holds a run: add --resume to continue it, or choose another --out", 2)

    torch.set_num_threads(settings.threads or local_cores())
    with join(settings.device) as processes:
        with processes.one_voice(), reading_input():
            cache = Path(settings.cache) if settings.cache else None
            splits = ("train", "val", "test") if settings.watch_test else ("train", "val")
            data = {split: open_split(settings.data, split, settings.image_size, cache) for split in splits}
            data = {split: of_methods(images, settings.methods) for split, images in data.items()}
        check(settings, processes, data["train"])
        run = start(settings, processes, data["train"], saved)
        with run.folder(fresh=saved is None):
            log = RunLog(run.out, settings.epochs, run.progress.epoch, processes.is_main)
            announce(run, data, log)
            with Interrupt() as interrupt, log:
                train(run, data, log, interrupt)


def main(argv: Sequence[str] | None = None) -> None:
    """Train. Most errors meet all processes alike: then the main one tells, and torchrun ends the others."""
    try:
        train_from(argv)
    except UserError:
        if not main_process():
            time.sleep(10)
        raise


if __name__ == "__main__":
    cli.run(main)
