"""The budget of each arm, in steps, and an estimate of the whole time: both from a few timed steps of every arm."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from deepfake.common.cli import UserError, first_line
from deepfake.common.files import put_if_absent, write_json
from deepfake.common.texts import read_json
from deepfake.training.placing import place
from panet_layers.measuring.timing import measure

from .arms import ARMS, NOTHING
from .networks import Network, trained_parameters
from .pictures import Pictures
from .training import TEST_BATCH, Recipe, new_optimiser, test, to_device, training_step

FILE = "budget.json"
ROUNDS = {"epochs": 3, "time": 15}  # timed steps of an arm: where they decide the budget, more


class Budget(NamedTuple):
    """Of each arm: steps of a training, seconds of a step and of the test, and how many numbers are trained."""

    steps: dict[str, int]
    step_seconds: dict[str, float]
    test_seconds: dict[str, float]
    parameters: dict[str, int]

    def seconds(self, runs: Sequence[tuple[str, int]]) -> float:
        """About how long runs, pairs of an arm and a seed, take."""
        return sum(self.steps[arm] * self.step_seconds[arm] + self.test_seconds[arm] for arm, _ in runs)


def settle(
    folder: Path, network: Network, pictures: Pictures, recipe: Recipe, arms: Sequence[str], epochs: int, match: str,
    device: torch.device,
) -> Budget:  # fmt: skip
    """The budget in the folder; a new one is measured and stored, so that a resumed trial has the same."""
    file = folder / FILE
    if not file.is_file():
        found = _measured(network, pictures, recipe, arms, epochs, match, device)
        write_json(file, found._asdict(), put_if_absent)
    stored = read_json(file)
    if set(stored) != set(Budget._fields) or any(set(value) != set(arms) for value in stored.values()):
        raise UserError(f"{file}: not what this command wrote; choose a new folder")
    return Budget(**stored)


def _measured(
    network: Network, pictures: Pictures, recipe: Recipe, arms: Sequence[str], epochs: int, match: str,
    device: torch.device,
) -> Budget:  # fmt: skip
    works: dict[str, Callable[[], object]] = {}
    parameters = {}
    train_batch = to_device(pictures.train, slice(recipe.batch_size), device)
    tested = pictures.test._replace(images=pictures.test.images[:TEST_BATCH], labels=pictures.test.labels[:TEST_BATCH])
    for arm in arms:
        model = place(network.arm(arm, 0)[0], device, channels_last=False)
        parameters[arm] = trained_parameters(model)
        training = partial(_one_step, model, new_optimiser(model, recipe), train_batch)
        _try(training, f"{network.name}, {ARMS[arm].title}")
        works[f"train {arm}"] = _whole(training, device)
        works[f"test {arm}"] = _whole(partial(test, model, tested, device), device)
    timed = {name: timing.milliseconds / 1e3 for name, timing in measure(works, ROUNDS[match]).items()}
    a_step = {arm: timed[f"train {arm}"] for arm in arms}
    a_test = {arm: timed[f"test {arm}"] * len(pictures.test.labels) / len(tested.labels) for arm in arms}
    steps = epochs * (len(pictures.train.labels) // recipe.batch_size)
    return Budget(matched(steps, a_step, match), a_step, a_test, parameters)


def matched(steps: int, step_seconds: Mapping[str, float], match: str) -> dict[str, int]:
    """Steps of each arm: the same for all, or as many as fit in the time of the network without layers."""
    if match == "epochs":
        return dict.fromkeys(step_seconds, steps)
    whole = steps * step_seconds[NOTHING]
    return {arm: max(1, round(whole / seconds)) for arm, seconds in step_seconds.items()}


def _one_step(model: nn.Module, optimiser: torch.optim.Optimizer, batch: tuple[Tensor, Tensor]) -> None:
    training_step(model.train(), optimiser, batch)


def _try(step: Callable[[], object], name: str) -> None:
    try:
        step()
    except Exception as error:  # anything can be inside a network
        raise UserError(f"{name}: a step of training failed: {first_line(error)}", 2) from error


def _whole(work: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """The work, and the wait for a GPU that still does it."""
    if device.type != "cuda":
        return work

    def waited() -> None:
        work()
        torch.cuda.synchronize(device)

    return waited
