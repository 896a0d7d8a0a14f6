"""One epoch of training: its steps, and the scores of a split after it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..common.cli import UserError
from ..common.interrupt import Interrupt
from ..dataset.batches import EvalBatches, TrainBatches, Waited, load, seed_for
from ..dataset.images import Images, to_unit_range
from ..dataset.readers import ReaderEnded
from ..evaluating.metrics import binary_metrics
from ..evaluating.scoring import AMP_DTYPES
from .log import PARTS, RunLog
from .run import Run
from .settings import Settings


def train_one_epoch(run: Run, images: Images, log: RunLog, interrupt: Interrupt) -> float:
    """Run the remaining steps of an epoch, then save. KeyboardInterrupt after a signal that ends it.

    Returns the share of the time spent waiting for images: near 0 if the readers keep up.
    """
    settings, processes, progress = run.settings, run.processes, run.progress
    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate(settings, progress.epoch)
    run.parallel.train()
    batches = TrainBatches(images, settings.batch_size, settings.seed, progress.epoch, processes.rank, processes.world)
    steps = Waited(load(batches, settings.workers, first=progress.step, pin=processes.device.type == "cuda"))
    before, started = progress.seconds, time.monotonic() - progress.seconds
    with log.bar(steps, progress.epoch, progress.step, len(batches)) as bar:
        for pixels, labels, _ in bar:
            torch.manual_seed(seed_for(settings.seed, progress.epoch, progress.step, processes.rank))
            with processes.waiting():
                *parts, stop = train_step(run, pixels, labels, interrupt.requested)
            progress.step += 1
            progress.sums = [total + part for total, part in zip(progress.sums, parts, strict=True)]
            progress.seconds = time.monotonic() - started
            means = {name: f"{total / progress.step:.4f}" for name, total in zip(PARTS, progress.sums, strict=True)}
            bar.set_postfix(means, refresh=False)
            if stop or progress.step == len(batches) or progress.step % (settings.checkpoint_every or math.inf) == 0:
                run.save()
            if stop:
                log.say(f"stopped in epoch {progress.epoch + 1} after step {progress.step}; continue with --resume")
                interrupt.leave()
    return steps.seconds / max(progress.seconds - before, 1e-9)


@contextmanager
def saving_where_readers_end(run: Run, interrupt: Interrupt) -> Iterator[None]:
    """Save the steps so far where a process that reads images ends: alone, or with this one by a signal to all."""
    try:
        yield
    except ReaderEnded as error:
        run.save()
        if interrupt.requested:
            interrupt.leave()
        saved = f"; {run.out} is saved: continue with --resume" if run.processes.is_main else ""
        raise ReaderEnded(f"{error}{saved}") from None


def train_step(run: Run, pixels: Tensor, labels: Tensor, stop: bool) -> list[float]:
    """One step of Adam. Returns the means over the processes of PARTS and of ``stop`` (above 0: one of them stops)."""
    progress, device = run.progress, run.processes.device
    images, labels = to_network(run, pixels), labels.to(device, non_blocking=True)
    with autocast(run):
        output = run.parallel(images)
        losses = run.loss(output, images, labels)
    accuracy = ((output.logits[:, 0] > 0) == labels.bool()).float().mean()
    with torch.no_grad():
        values = run.processes.mean(torch.stack([*losses, accuracy, accuracy.new_tensor(stop)])).tolist()
    if not all(map(math.isfinite, values)):
        where = f"epoch {progress.epoch + 1}, step {progress.step + 1}"
        parts = ", ".join(f"{name} {value:.4g}" for name, value in zip(PARTS, values, strict=False))
        raise UserError(f"the loss is not finite at {where} ({parts}); {run.out} keeps its checkpoint")

    run.optimizer.zero_grad(set_to_none=True)
    run.scaler.scale(losses.total).backward()
    if run.settings.clip_grad is not None:
        run.scaler.unscale_(run.optimizer)
        torch.nn.utils.clip_grad_norm_(run.model.parameters(), run.settings.clip_grad)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    return values


@torch.inference_mode()
def validate(run: Run, images: Images, interrupt: Interrupt, split: str = "val") -> dict[str, float]:
    """Classification loss, accuracy and AUC of a split; each process scores its share of the images."""
    processes = run.processes
    run.model.eval()
    indices, logits = [np.empty(0, np.int64)], [np.empty(0)]  # a process may have no image
    batches = EvalBatches(images, run.settings.batch_size, processes.rank, processes.world)
    for pixels, _, numbers in load(batches, run.settings.workers, pin=processes.device.type == "cuda"):
        if interrupt.requested:  # the epoch's steps are saved: a resumed run begins with this validation
            interrupt.leave()
        with autocast(run):
            output = run.model(to_network(run, pixels))
        logits.append(output.logits[:, 0].double().cpu().numpy())
        indices.append(numbers.numpy())
    scores = np.full(len(images), np.nan)
    for numbers, values in processes.gather((np.concatenate(indices), np.concatenate(logits))):
        scores[numbers] = values
    if not np.isfinite(scores).all():
        raise UserError(f"the scores of the {split} split are not finite after epoch {run.progress.epoch + 1}")
    labels, outputs = torch.from_numpy(images.labels), torch.from_numpy(scores)
    metrics = binary_metrics(images.labels, outputs.sigmoid().numpy())
    loss = F.binary_cross_entropy_with_logits(outputs, labels.double()).item()
    return {f"{split}_loss": loss, f"{split}_acc": float(metrics["acc"]), f"{split}_auc": float(metrics["auc"])}


def learning_rate(settings: Settings, epoch: int) -> float:
    """The learning rate of StepLR after ``epoch`` finished epochs."""
    return settings.lr * settings.lr_gamma ** (epoch // settings.lr_step)


def to_network(run: Run, pixels: Tensor) -> Tensor:
    """uint8 pixels (B, 3, S, S) as the network takes them: float32 in [-1, 1], on its device."""
    images = to_unit_range(pixels.to(run.processes.device, non_blocking=True))
    return images.contiguous(memory_format=torch.channels_last) if run.settings.channels_last else images


def autocast(run: Run) -> torch.autocast:
    """Mixed precision as the settings say."""
    dtype = AMP_DTYPES[run.settings.amp]
    return torch.autocast(run.processes.device.type, dtype, enabled=dtype is not None)
