"""What is measured: a forward pass, or a training step, as a function without arguments; and the copy beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

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

    def results(self) -> dict[str, Tensor]:
        """Run the step; return the output and the gradients by name."""
        out = self.forward()
        names = ["output", *(f"gradient of {name}" for name in self.gradient_names)]
        return dict(zip(names, (out.detach(), *self.backward(out)), strict=True))


def inference(module: nn.Module, x: Tensor) -> Step:
    """Return the forward pass that records no graph."""

    @torch.no_grad()
    def forward() -> Tensor:
        return module(x)

    return Step(forward)


def training(module: nn.Module, x: Tensor, grad: Tensor, names: Sequence[str] | None = None) -> Step:
    """Return forward and backward, for the gradient of the output. `names`: of the parameters, where others count."""
    x.requires_grad_()
    inputs = [x, *module.parameters()]
    names = [name for name, _ in module.named_parameters()] if names is None else names
    return Step(lambda: module(x), lambda out: torch.autograd.grad(out, inputs, grad), ("input", *names))


def copy(x: Tensor, grad: Tensor, pass_: str) -> Step:
    """Return the lower bound: forward, one read and one write of the map; training, two reads and one write more."""
    out, dx = torch.empty_like(x), torch.empty_like(x)
    forward = Step(lambda: out.copy_(x))
    step = forward if pass_ == "forward" else replace(forward, backward=lambda _: (torch.add(x, grad, out=dx),))
    return captured(step) if x.is_cuda else step


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
