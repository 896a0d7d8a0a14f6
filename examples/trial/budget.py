"""The budget of each arm, in steps, and an estimate of the whole time: both from a few timed steps of every arm."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from deepfake.common.cli import UserError, first_line
from deepfake.common.files import put_if_absent, write_json
from deepfake.common.texts import read_json
from deepfake.training.placing import place
from panet_layers.insertion.costs import CostReport
from panet_layers.measuring.timing import measure

from .arms import ARMS, NOTHING
from .networks import trained_parameters
from .training import TEST_BATCH, Setup, new_optimiser, test, to_device, training_step

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


def try_arms(setup: Setup) -> dict[str, CostReport | None]:
    """Train every arm for a step, and return where its layers are. UserError if one cannot be trained."""
    reports = {}
    for arm in setup.arms:
        model, reports[arm] = setup.network.arm(arm, 0)
        try:
            _step(place(model, setup.device, channels_last=False), setup)()
        except Exception as error:  # anything can be inside a network
            name = f"{setup.network.name}, {ARMS[arm].title}"
            raise UserError(f"{name}: a step of training failed: {first_line(error)}", 2) from error
    return reports


def settle(folder: Path, setup: Setup, epochs: int, match: str) -> Budget:
    """The budget in the folder; a new one is measured and stored, so that a resumed trial has the same."""
    file = folder / FILE
    if not file.is_file():
        found = measured(setup, epochs, match)
        write_json(file, found._asdict(), put_if_absent)
    stored = read_json(file)
    if set(stored) != set(Budget._fields) or any(set(value) != set(setup.arms) for value in stored.values()):
        raise UserError(f"{file}: not what this command wrote; choose a new folder")
    return Budget(**stored)


def measured(setup: Setup, epochs: int, match: str) -> Budget:
    """A new budget, from a few timed steps of every arm."""
    network, pictures, recipe, arms, device = setup
    works: dict[str, Callable[[], object]] = {}
    parameters = {}
    tested = pictures.test._replace(images=pictures.test.images[:TEST_BATCH], labels=pictures.test.labels[:TEST_BATCH])
    for arm in arms:
        model = place(network.arm(arm, 0)[0], device, channels_last=False)
        parameters[arm] = trained_parameters(model)
        works[f"train {arm}"] = _whole(_step(model, setup), device)
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


def _step(model: nn.Module, setup: Setup) -> Callable[[], None]:
    """A step of training on the first images."""
    optimiser = new_optimiser(model, setup.recipe)
    batch = to_device(setup.pictures.train, slice(setup.recipe.batch_size), setup.device)
    return lambda: training_step(model.train(), optimiser, batch)


def _whole(work: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """The work, and the wait for a GPU that still does it."""
    if device.type != "cuda":
        return work

    def waited() -> None:
        work()
        torch.cuda.synchronize(device)

    return waited
