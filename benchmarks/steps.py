"""The one set-up behind gate, timing and memory: a contender on a case as a step that can be run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from benchmarks.registry import BOTH, DTYPES, LAYOUTS, REFERENCE, Case, Contender, contenders, is_detector
from panet_layers.models import PANetLoss

SEED = 2024
GRAPH_WARM_UPS = 3


@dataclass(frozen=True)
class Step:
    """A forward pass; for a training step also the backward one, giving the gradients of input and parameters."""

    forward: Callable[[], Tensor]
    backward: Callable[[Tensor], tuple[Tensor, ...]] | None
    gradient_names: tuple[str, ...] = ()
    graph: bool = False  # a CUDA graph: one launch for all of it

    def __call__(self) -> None:
        out = self.forward()
        if self.backward is not None:
            self.backward(out)


def prepare(case: Case, contender: Contender, pass_: str, dtype: torch.dtype | None = None) -> Step:
    """The step of a contender, the same numbers for every contender of the case.

    `dtype`: compute in another precision than the case's, on the same (already rounded) numbers.
    """
    module = _with_drawn_parameters(case, contender, dtype or DTYPES[case.dtype]).train(pass_ == "training")
    names = tuple(name for name, _ in module.named_parameters())
    if contender.compiled:
        module.compile(dynamic=False, mode=contender.compiled)
    x = draw_input(case, dtype)
    if pass_ == "forward":
        step = _inference(module, x, is_detector(case.layer))
    elif is_detector(case.layer):
        step = _detector_training(module, x, names)
    else:
        step = _layer_training(module, x, _draw(case, case.shape, SEED + 1, dtype), names)
    return captured(step) if contender.graph else step


def prepare_copy(case: Case, pass_: str) -> Step:
    """The floor: read and write once for the forward; read input and gradient and write one for the backward."""
    x, grad = draw_input(case), _draw(case, case.shape, SEED + 1)
    out, dx = torch.empty_like(x), torch.empty_like(x)
    step = Step(lambda: out.copy_(x), None if pass_ == "forward" else lambda _: (torch.add(x, grad, out=dx),))
    return captured(step) if case.device == "cuda" else step


def captured(step: Step) -> Step:
    """The whole step in one graph: `forward` replays it, `backward` only hands out the gradients."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(GRAPH_WARM_UPS):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = step.forward()
        gradients = step.backward(out) if step.backward else ()

    def forward() -> Tensor:
        graph.replay()
        return out

    return Step(forward, (lambda _: gradients) if step.backward else None, step.gradient_names, graph=True)


def _inference(module: nn.Module, x: Tensor, detector: bool) -> Step:
    def forward() -> Tensor:
        with torch.no_grad():
            out = module(x)
        return out.logits if detector else out

    return Step(forward, None)


def _layer_training(module: nn.Module, x: Tensor, grad: Tensor, names: tuple[str, ...]) -> Step:
    x.requires_grad_()
    wanted = [x, *module.parameters()]

    def backward(out: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(out, wanted, grad)

    return Step(lambda: module(x), backward, ("input", *names))


def _detector_training(module: nn.Module, images: Tensor, names: tuple[str, ...]) -> Step:
    labels = torch.arange(len(images), device=images.device) % 2
    criterion = PANetLoss()
    parameters = list(module.parameters())

    def backward(loss: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss, parameters, materialize_grads=True)

    return Step(lambda: criterion(module(images), images, labels).total, backward, names)


def _with_drawn_parameters(case: Case, contender: Contender, dtype: torch.dtype) -> nn.Module:
    """The contender's module with the case's parameters: its layer's contenders have the same, in the same order."""
    torch.manual_seed(SEED)
    module = contender.build(case)
    if contender.same_function and contender.name != REFERENCE:
        torch.manual_seed(SEED)
        source = contenders(case.layer)[0].build(case)
    else:
        source = module
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for target, drawn in zip(module.parameters(), source.parameters(), strict=True):
            # Away from a fresh layer's ones and zeros, which would hide mistakes.
            noise = torch.randn(drawn.shape, generator=generator) * (0.1 if drawn.dim() == 1 else 0.0)
            target.copy_((drawn + noise).to(DTYPES[case.dtype]).view_as(target))
    return module.to(device=case.device, dtype=dtype)


def draw_input(case: Case, dtype: torch.dtype | None = None) -> Tensor:
    """The case's input, in the case's layout."""
    if case.layer in ("scam", "cbam", BOTH):
        return _place(case, clear_maxima(case.shape), dtype)
    return _draw(case, case.shape, SEED, dtype)


def _draw(case: Case, shape: tuple[int, ...], seed: int, dtype: torch.dtype | None = None) -> Tensor:
    return _place(case, _normal(shape, seed), dtype)


@lru_cache(maxsize=2)
def _normal(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _place(case: Case, values: Tensor, dtype: torch.dtype | None) -> Tensor:
    rounded = values.to(DTYPES[case.dtype])
    return rounded.to(case.device, dtype or rounded.dtype, memory_format=LAYOUTS[case.layout], copy=True)


@lru_cache(maxsize=2)
def clear_maxima(shape: tuple[int, int, int, int], seed: int = SEED) -> Tensor:
    """Random maps whose maxima, over channels and over pixels, are clear of their runners-up.

    Which of two nearly equal values is the maximum depends on rounding and decides where the gradient goes: on random
    maps the gate would call such a flip an error. Here the values lie in (-1, 1), each pixel's largest channel is 3,
    and each channel's largest pixel is 5 (one of its threes) or 2 (where it has none).
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
