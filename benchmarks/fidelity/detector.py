"""`PANet(emam=None, scam=None)` against RECCE in the structure of its published code, and the Xception baseline."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from benchmarks.fidelity.lines import Line, apart, furthest
from benchmarks.published_recce import PublishedRECCE
from panet_layers.models import PANet, PANetLoss, XceptionBaseline, recce_state_dict

NAMES = Path(__file__).parents[2] / "tests/models/recce_state_dict.json"
RECCE, AGAINST = "RECCE", "the published structure"
BOUND = 1e-9
SCORED, TRAINED = (2, 3, 299, 299), (4, 3, 128, 128)


def lines() -> Iterator[Line]:
    """Compare, in float64: tensors, outputs, one training step, and the Xception baseline."""
    torch.manual_seed(0)
    published = PublishedRECCE("paper").double()
    ours = PANet(emam=None, scam=None, drop_rate=0, noise_std=0).double()
    _randomise(published)
    yield _tensors_that_map(ours)
    _copy(published, ours)
    yield from _scored(published.eval(), ours.eval())
    yield from _trained(published.train(), ours.train())
    yield _xception()


def _tensors_that_map(ours: nn.Module) -> Line:
    """Give every published name a tensor of the published shape; the error is the number without a place."""
    shapes = json.loads(NAMES.read_text(encoding="utf-8"))
    weights, unused = recce_state_dict({name: torch.zeros(shape) for name, shape in shapes.items()})
    wrong = weights.keys() ^ ours.state_dict().keys()
    of = f"{len(shapes)} names and shapes: {len(weights)} used, {len(unused)} of a classifier that RECCE never calls"
    return Line(RECCE, "a published state_dict", of, len(wrong) + len(shapes) - len(weights) - len(unused), 0)


def _scored(published: nn.Module, ours: nn.Module) -> Iterator[Line]:
    images = torch.rand(SCORED, dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        expected, found = published(images), ours(images)
    where = f"{SCORED[0]} images of {SCORED[2]}x{SCORED[3]}"
    yield Line(RECCE, AGAINST, f"logits of {where}", apart(found.logits, expected.logits), BOUND)
    yield Line(RECCE, AGAINST, "reconstructions", apart(found.reconstruction, expected.reconstruction), BOUND)
    error = max(map(apart, found.embeddings, expected.embeddings))
    yield Line(RECCE, AGAINST, f"{len(expected.embeddings)} embeddings of the metric loss", error, BOUND)


def _trained(published: nn.Module, ours: nn.Module) -> Iterator[Line]:
    """One training step with RECCE's loss, without the dropout and the noise, which are random."""
    images, labels = torch.rand(TRAINED, dtype=torch.float64) * 2 - 1, torch.arange(TRAINED[0]) % 2
    loss = PANetLoss(flood=0.04, clip_metric=True)
    totals, gradients = [], []
    for model in (ours, published):
        totals.append(loss(model(images), images, labels).total)
        gradients.append(torch.autograd.grad(totals[-1], list(model.parameters())))
    where = f"a training step, {TRAINED[0]} images of {TRAINED[2]}x{TRAINED[3]}"
    yield Line(RECCE, AGAINST, f"loss of {where}", apart(*totals), BOUND)
    error = max(apart(one.reshape(other.shape), other) for one, other in zip(*gradients, strict=True))
    yield Line(RECCE, AGAINST, f"its gradients of {len(gradients[0])} parameters", error, 1e-7)
    found, expected = (dict(enumerate(model.buffers())) for model in (ours, published))
    error = furthest(_named(found), _named(expected))
    yield Line(RECCE, AGAINST, f"the {len(found)} buffers of batch normalisation after it", error, BOUND)


def _xception() -> Line:
    published = timm.create_model("legacy_xception", num_classes=1).double().eval()
    _randomise(published)
    ours = XceptionBaseline().double().eval()
    state = {f"encoder.{name}": value for name, value in published.state_dict().items()}
    for part in ("weight", "bias"):
        state[f"classifier.{part}"] = state.pop(f"encoder.fc.{part}")
    ours.load_state_dict(state)
    images = torch.rand(SCORED, dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        error = apart(ours(images).logits, published(images))
    return Line("Xception", "timm's legacy_xception", "logits", error, BOUND)


def _randomise(model: nn.Module) -> None:
    """Give the batch normalisations weights and statistics that a new network has not."""
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor, centre in ((norm.weight, 1), (norm.bias, 0), (norm.running_mean, 0), (norm.running_var, 1)):
                if tensor is not None:
                    nn.init.uniform_(tensor, centre - 0.2, centre + 0.2)


@torch.no_grad()
def _copy(source: nn.Module, target: nn.Module) -> None:
    """Copy all tensors; both models have them in the same order."""
    for parts in (nn.Module.parameters, nn.Module.buffers):
        for theirs, own in zip(parts(source), parts(target), strict=True):
            own.copy_(theirs.reshape(own.shape))


def _named(tensors: dict[int, Tensor]) -> dict[str, Tensor]:
    return {str(number): tensor for number, tensor in tensors.items()}
