"""What is tried before a long experiment: a failure there takes a minute, not a day.

Whether a place can be written and the detector of faces loads shows when the plan is made, the room on disk with the
estimate.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from panet_layers.measuring.cases import DTYPES, Case
from panet_layers.measuring.certificate import first_line, prepare
from panet_layers.measuring.gate import Gate, Results
from panet_layers.models.encoder import VARIANTS, XceptionEncoder

from ..common.cli import UserError
from ..training.distributed import pick_device
from ..training.placing import choose_channels_last
from ..training.run import build_model
from ..training.settings import Settings
from .plan import Experiment
from .step_times import measure
from .steps import Step

AMP = {"none": "float32", "bf16": "bfloat16", "fp16": "float16"}
SAMPLES = 2


def preflight(experiment: Experiment, steps: Sequence[Step]) -> None:
    """Try the ImageNet weights, both layers and, on a GPU, a training step of each model that these steps train.

    UserError that says what failed.
    """
    starting = [step for step in steps if step.script == "train.py" and not step.done()]
    models = [name for name in experiment.models if any(f" {name} " in step.name for step in starting)]
    if not models:
        return
    settings = experiment.models[models[0]].over(experiment.processes)
    device = pick_device(settings.device)
    if settings.pretrained and any(step.started_file and not step.started_file.exists() for step in starting):
        build_model(settings, pretrained=True)
    if "panet" in models:
        for case in cases(experiment.models["panet"], device):
            check_layer(case)
    for name in models if device.type == "cuda" else ():
        measure(experiment.models[name].over(experiment.processes), experiment.processes)
    print(f"preflight on {device}: passed", flush=True)


def cases(settings: Settings, device: torch.device) -> list[Case]:
    """EMAM's and SCAM's maps in PANet, at the locations of the paper."""
    variant = VARIANTS[settings.variant]
    height, width = XceptionEncoder.common_size(settings.image_size, settings.image_size)
    layout = "channels_last" if choose_channels_last(settings.channels_last, device) else "contiguous"
    of = partial(Case, dtype=AMP[settings.amp], layout=layout, device=device.type)
    common = (SAMPLES, variant.common, height, width)
    final = (SAMPLES, variant.exit[-1], (height + 1) // 2, (width + 1) // 2)
    return [of("emam", common, 8), of("scam", final, None)]


def check_layer(case: Case) -> None:
    """UserError unless a step by the backend that training takes agrees with the formulas, forward and backward."""

    def run(backend: str, dtype: torch.dtype, seed: int) -> Results:
        return prepare(case, backend, "training", dtype, seed).results()

    try:
        fault = Gate(run).judge("auto", "reference", DTYPES[case.dtype]).fault
    except Exception as error:  # compilers and drivers raise classes of their own
        fault = f"{type(error).__name__}: {first_line(error)}"
    if fault:
        raise UserError(
            f"preflight: {case} on {case.device} fails ({fault}); run python -m panet_layers.certify and report it, or "
            "train by the formulas, with PANET_LAYERS_BACKEND=reference"
        )
