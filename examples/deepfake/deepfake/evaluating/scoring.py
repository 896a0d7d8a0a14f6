"""Runs a trained detector over images: the logit or fake probability of each, on a CPU or a GPU."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from ..common.cli import UserError, non_negative_int, positive_int
from ..dataset.batches import EvalBatches, load
from ..dataset.images import Images, to_unit_range

AMP_DTYPES = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def add_compute_options(parser: argparse.ArgumentParser, batch_size: int = 32) -> None:
    """--batch-size, with its default, and --device; they change only speed and rounding."""
    parser.add_argument(
        "--batch-size", type=positive_int, default=batch_size, help="images at a time (default: %(default)s)"
    )
    parser.add_argument("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda, cuda:1, ...")


def add_amp_option(parser: argparse.ArgumentParser) -> None:
    """--amp, for commands that only score."""
    parser.add_argument("--amp", choices=AMP_DTYPES, default="none", help="mixed precision (default: %(default)s)")


def add_workers_option(parser: argparse.ArgumentParser) -> None:
    """--workers, for commands that read a whole data set."""
    parser.add_argument(
        "--workers",
        type=non_negative_int,
        help="processes that read images (default: 0 for the demo, else one per core, at most 4)",
    )


@torch.inference_mode()
def fake_logits(model: nn.Module, images: Tensor, amp: str) -> NDArray[np.float64]:
    """Logits (B,) of "fake" of uint8 images (B, 3, S, S) on the model's device."""
    dtype = AMP_DTYPES[amp]
    with torch.autocast(images.device.type, dtype=dtype, enabled=dtype is not None):
        logits = model(to_unit_range(images)).logits
    return only_logit(logits).double().cpu().numpy()


def only_logit(logits: Tensor) -> Tensor:
    """(B, 1) -> (B,). UserError for a model with more outputs, since none of them is known to mean "fake"."""
    if logits.shape[1] != 1:
        raise UserError(f'the model has {logits.shape[1]} outputs; use a model with one, the logit of "fake"')
    return logits[:, 0]


def to_probabilities(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sigmoid in float64, in which confident images do not tie at 1."""
    return torch.from_numpy(logits).sigmoid().numpy()


def probabilities(model: nn.Module, images: Tensor, batch_size: int, amp: str) -> NDArray[np.float64]:
    """Fake probabilities (N,) of uint8 images (N, 3, S, S) on any device, a batch at a time."""
    device = next(model.parameters()).device
    logits = [fake_logits(model, batch.to(device), amp) for batch in images.split(batch_size)]
    return to_probabilities(np.concatenate(logits))


def check_finite(scores: NDArray[np.float64], names: Sequence[str]) -> None:
    """UserError naming the first image whose score is not finite."""
    broken = np.flatnonzero(~np.isfinite(scores))
    if broken.size:
        raise UserError(f"{names[broken[0]]}: the model's score is not finite (its weights may be damaged)")


def score_logits(
    model: nn.Module,
    images: Images,
    device: torch.device,
    batch_size: int,
    amp: str = "none",
    workers: int | None = None,
) -> NDArray[np.float64]:
    """Logits (N,) of "fake" of a split's images, in its order. UserError names an image whose logit is not finite."""
    logits = np.empty(len(images))
    batches = EvalBatches(images, batch_size)
    loaded = load(batches, workers, pin=device.type == "cuda")
    for batch, _, indices in tqdm(loaded, "scoring", len(batches), leave=False, disable=None, unit="batch"):
        found = fake_logits(model, batch.to(device, non_blocking=True), amp)
        check_finite(found, [images.names[index] for index in indices])
        logits[indices.numpy()] = found
    return logits
