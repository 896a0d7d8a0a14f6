"""Trains one arm from one seed, and tests it once, after the last step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from deepfake.dataset.batches import seed_for
from deepfake.dataset.images import to_unit_range
from deepfake.training.placing import place

from .networks import DROPOUT, ORDER, Network, digest, shares
from .pictures import Pictures, Split

TEST_BATCH = 256


class Recipe(NamedTuple):
    """How every arm is trained: Adam, whose learning rate falls to 0 by a cosine."""

    batch_size: int
    lr: float
    weight_decay: float


class Setup(NamedTuple):
    """What all trainings have in common, and the names of the arms."""

    network: Network
    pictures: Pictures
    recipe: Recipe
    arms: list[str]
    device: torch.device


def train(
    setup: Setup, arm: str, seed: int, steps: int, after_step: Callable[[], object] = lambda: None
) -> dict[str, Any]:
    """Train an arm for that many steps, and return what is stored of it: JSON's kinds of values."""
    network, pictures, recipe, _, device = setup
    model, _ = network.arm(arm, seed)
    start = digest(model)
    model = place(model, device, channels_last=False).train()
    optimiser = new_optimiser(model, recipe)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: (1 + math.cos(math.pi * step / steps)) / 2)
    began = time.monotonic()
    for step, chosen in zip(range(steps), batches(len(pictures.train.labels), recipe.batch_size, seed)):
        torch.manual_seed(seed_for(seed, DROPOUT, step))  # the same in every arm
        training_step(model, optimiser, to_device(pictures.train, chosen, device))
        schedule.step()
        after_step()
    seconds = time.monotonic() - began
    accuracy, loss = test(model, pictures.test, device)
    found = {"arm": arm, "seed": seed, "steps": steps, "accuracy": accuracy, "test_loss": loss}
    return {**found, "shares": shares(model), "start": start, "seconds": round(seconds, 3)}


def batches(images: int, batch_size: int, seed: int) -> Iterator[Tensor]:
    """The images of each step, for ever: a new order in every epoch, whose last few are left out as in train.py."""
    epoch = 0
    while True:
        order = torch.randperm(images, generator=torch.Generator().manual_seed(seed_for(seed, ORDER, epoch)))
        yield from order[: images // batch_size * batch_size].split(batch_size)
        epoch += 1


def new_optimiser(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay, of which what has one dimension is spared: biases, norms and the shares."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, recipe.lr)


def to_device(split: Split, chosen: Tensor | slice, device: torch.device) -> tuple[Tensor, Tensor]:
    """Some images as the network takes them, float32 in [-1, 1], and their labels."""
    return to_unit_range(split.images[chosen].to(device)), split.labels[chosen].to(device)


def training_step(model: nn.Module, optimiser: torch.optim.Optimizer, batch: tuple[Tensor, Tensor]) -> None:
    """One step on a batch."""
    optimiser.zero_grad()
    cross_entropy(model(batch[0]), batch[1]).backward()
    optimiser.step()


@torch.inference_mode()
def test(model: nn.Module, split: Split, device: torch.device) -> tuple[float, float | None]:
    """Accuracy in %, and the mean loss; None where it is not finite, after a training that has failed."""
    model.eval()
    right, loss = 0, 0.0
    for first in range(0, len(split.labels), TEST_BATCH):
        images, labels = to_device(split, slice(first, first + TEST_BATCH), device)
        logits = model(images)
        right += int((logits.argmax(1) == labels).sum())
        loss += cross_entropy(logits.double(), labels, reduction="sum").item()
    count = len(split.labels)
    return 100 * right / count, loss / count if math.isfinite(loss) else None
