"""A contender on a case, prepared as a step that gate, timing and memory run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import torch
from torch import Tensor, nn

from benchmarks.cases import BOTH, DTYPES, LAYOUTS, Case, is_detector
from benchmarks.contenders import Contender, find_contender
from panet_layers.models import PANetLoss, fold_batch_norm

SEED = 2024
GRAPH_WARM_UPS = 3


@dataclass(frozen=True)
class Step:
    """A forward pass; a training step also has the backward pass, which returns gradients of input and parameters."""

    forward: Callable[[], Tensor]
    backward: Callable[[Tensor], tuple[Tensor, ...]] = lambda _: ()
    gradient_names: tuple[str, ...] = ()
    graph: bool = False  # one CUDA graph, one launch

    def __call__(self) -> None:
        self.backward(self.forward())


def prepare(case: Case, contender: Contender, pass_: str, dtype: torch.dtype | None = None, seed: int = SEED) -> Step:
    """Return the step of a contender; every contender of the case gets the same numbers.

    `dtype`: compute in this precision instead of the case's, on the same (already rounded) numbers. `seed`: of the
    input and of the gradient of a layer's output.
    """
    module = _with_drawn_parameters(case, contender, dtype or DTYPES[case.dtype]).train(pass_ == "training")
    names = tuple(name for name, _ in module.named_parameters())
    x = draw_input(case, dtype, seed)
    if pass_ == "forward" and is_detector(case.layer):
        _take_statistics(module, x)
    if contender.folded:
        module = fold_batch_norm(module)
    if contender.compiled:
        module.compile(fullgraph=True, dynamic=False, mode=contender.compiled)
    if pass_ == "forward":
        step = _inference(module, x, is_detector(case.layer))
    elif is_detector(case.layer):
        step = _detector_training(module, x, names)
    else:
        step = _layer_training(module, x, _place(case, _normal(case.shape, seed + 1), dtype), names)
    return captured(step) if contender.graph else step


def prepare_copy(case: Case, pass_: str) -> Step:
    """Return the lower bound: forward, one read and one write of the map; backward, two reads and one write."""
    x, grad = draw_input(case), _place(case, _normal(case.shape, SEED + 1))
    out, dx = torch.empty_like(x), torch.empty_like(x)
    forward = Step(lambda: out.copy_(x))
    step = forward if pass_ == "forward" else replace(forward, backward=lambda _: (torch.add(x, grad, out=dx),))
    return captured(step) if case.device == "cuda" else step


def captured(step: Step) -> Step:
    """Return the whole step in one CUDA graph: `forward` replays it, `backward` only returns the gradients."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(GRAPH_WARM_UPS):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = step.forward()
        gradients = step.backward(out)

    def forward() -> Tensor:
        graph.replay()
        return out

    return Step(forward, lambda _: gradients, step.gradient_names, graph=True)


def _inference(module: nn.Module, x: Tensor, detector: bool) -> Step:
    @torch.no_grad()
    def forward() -> Tensor:
        return module(x).logits if detector else module(x)

    return Step(forward)


def _layer_training(module: nn.Module, x: Tensor, grad: Tensor, names: tuple[str, ...]) -> Step:
    x.requires_grad_()
    inputs = [x, *module.parameters()]
    return Step(lambda: module(x), lambda out: torch.autograd.grad(out, inputs, grad), ("input", *names))


def _detector_training(module: nn.Module, images: Tensor, names: tuple[str, ...]) -> Step:
    labels = torch.arange(len(images), device=images.device) % 2
    criterion = PANetLoss()
    gradients = partial(torch.autograd.grad, inputs=list(module.parameters()), materialize_grads=True)
    return Step(lambda: criterion(module(images), images, labels).total, gradients, names)


def _with_drawn_parameters(case: Case, contender: Contender, dtype: torch.dtype) -> nn.Module:
    """Return the contender's module with the case's parameters, which all contenders of the same function share."""
    torch.manual_seed(SEED)
    module = contender.build(case)
    torch.manual_seed(SEED)
    source = find_contender(case.layer, contender.same_as).build(case)
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for target, drawn in zip(module.parameters(), source.parameters(), strict=True):
            # Not the ones and zeros of a new layer, which would hide mistakes.
            noise = torch.randn(drawn.shape, generator=generator) * (0.1 if drawn.dim() == 1 else 0.0)
            target.copy_((drawn + noise).to(DTYPES[case.dtype]).view_as(target))
    return module.to(device=case.device, dtype=dtype)


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


def draw_input(case: Case, dtype: torch.dtype | None = None, seed: int = SEED) -> Tensor:
    """Return the case's input, in the case's layout."""
    if case.layer in ("scam", "cbam", BOTH):
        return _place(case, clear_maxima(case.shape, seed), dtype)
    return _place(case, _normal(case.shape, seed), dtype)


@lru_cache(maxsize=2)
def _normal(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _place(case: Case, values: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return the values rounded to the case's dtype, on its device and in its layout."""
    rounded = values.to(DTYPES[case.dtype])
    return rounded.to(case.device, dtype or rounded.dtype, memory_format=LAYOUTS[case.layout], copy=True)


@lru_cache(maxsize=2)
def clear_maxima(shape: tuple[int, int, int, int], seed: int = SEED) -> Tensor:
    """Return random maps (B, C, H, W) whose maxima, over channels and over pixels, are well above the other values.

    Which of two nearly equal values is the maximum depends on rounding and decides where the gradient goes; the gate
    would report that as an error. Here values are in (-1, 1), except: each pixel's largest channel is 3, and each
    channel's largest pixel is 5 (one of its threes) or 2 (if it has none).
    """
    batch, channels, height, width = shape
    pixels = height * width
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand((batch, channels, pixels), generator=generator) * 2 - 1
    winner = torch.randint(channels, (batch, 1, pixels), generator=generator)
    spare = torch.randint(pixels, (batch, channels, 1), generator=generator)
    won = torch.full((batch, channels), -1)
    won.scatter_reduce_(1, winner[:, 0], torch.arange(pixels).expand(batch, -1), "amax")
    has_won = (won >= 0)[..., None]
    x.scatter_(2, spare, torch.where(has_won, x.gather(2, spare), 2.0))
    x.scatter_(1, winner, 3.0)
    peak = won.clamp_min(0)[..., None]
    x.scatter_(2, peak, torch.where(has_won, 5.0, x.gather(2, peak)))
    return x.view(shape)
