"""A contender on a case, prepared as a step that gate, timing and memory run."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.cases import is_detector
from benchmarks.contenders import Contender, find_contender
from panet_layers.measuring import steps
from panet_layers.measuring.cases import DTYPES, Case, draw_gradient, draw_input, drawn
from panet_layers.measuring.draws import SEED
from panet_layers.measuring.steps import Step
from panet_layers.models import PANetLoss, fold_batch_norm


def prepare(case: Case, contender: Contender, pass_: str, dtype: torch.dtype | None = None, seed: int = SEED) -> Step:
    """Return the step of a contender; every contender of the case gets the same numbers.

    `dtype`: compute in this precision instead of the case's, on the same (already rounded) numbers. `seed`: of the
    input and of the gradient of a layer's output.
    """
    same_as = find_contender(case.layer, contender.same_as)
    module = drawn(partial(contender.build, case), partial(same_as.build, case), case, dtype or DTYPES[case.dtype])
    module.train(pass_ == "training")
    names = [name for name, _ in module.named_parameters()]  # as they are before compilation
    x = draw_input(case, dtype, seed)
    if pass_ == "forward" and is_detector(case.layer):
        _take_statistics(module, x)
    if contender.folded:
        module = fold_batch_norm(module)
    if contender.compiled:
        module.compile(fullgraph=True, dynamic=False, mode=contender.compiled)
    if pass_ == "forward":
        step = _detector_inference(module, x) if is_detector(case.layer) else steps.inference(module, x)
    elif is_detector(case.layer):
        step = _detector_training(module, x, names)
    else:
        step = steps.training(module, x, draw_gradient(case, dtype, seed), names)
    return steps.captured(step) if contender.graph else step


def prepare_copy(case: Case, pass_: str) -> Step:
    """Return the lower bound: the copy of the case's map."""
    return steps.copy(draw_input(case), draw_gradient(case), pass_)


def _detector_inference(module: nn.Module, images: Tensor) -> Step:
    @torch.no_grad()
    def forward() -> Tensor:
        return module(images).logits

    return Step(forward)


def _detector_training(module: nn.Module, images: Tensor, names: list[str]) -> Step:
    labels = torch.arange(len(images), device=images.device) % 2
    criterion = PANetLoss()
    gradients = partial(torch.autograd.grad, inputs=list(module.parameters()), materialize_grads=True)
    return Step(lambda: criterion(module(images), images, labels).total, gradients, tuple(names))


@torch.no_grad()
def _take_statistics(module: nn.Module, images: Tensor) -> None:
    """Set the running statistics of all batch normalisations to those of the images.

    With those of a new network its features vanish, and whatever is wrong with them.
    """
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = 1.0
    module.train()(images)
    module.eval()
