"""Code of the two processes of test_distributed.py; in its own file, so that starting them imports little."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from deepfake.training.sync_norm import all_reduce_sum, synchronise_batch_norm
from panet_layers.models import PANet
from tests.processes import joined

CPU = torch.device("cpu")
SHARES = {"equal": ([0, 2, 4, 6], [1, 3, 5, 7]), "unequal": ([0, 1, 2, 3, 4, 5], [6, 7])}


def small_net() -> nn.Sequential:
    """Convolutions and batch norms: a standard one, one without parameters, and one with a cumulative average."""
    torch.manual_seed(0)
    usual = nn.BatchNorm2d(4)
    nn.init.normal_(usual.weight)
    plain, cumulative = nn.BatchNorm2d(5, affine=False), nn.BatchNorm2d(5, momentum=None)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), usual, nn.ReLU(), nn.Conv2d(4, 5, 3), plain, nn.Sigmoid(), cumulative
    ).double()


def example() -> tuple[Tensor, Tensor]:
    """Images (8, 3, 9, 7) away from zero mean, and weights (8, 5, 5, 3) of a loss."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(8, 3, 9, 7, dtype=torch.float64, generator=generator) + 3
    return images, torch.randn(8, 5, 5, 3, dtype=torch.float64, generator=generator)


def far_example() -> Tensor:
    """float32 with mean 10,000 and variance 1, where E[x^2] - E[x]^2 loses all digits."""
    return torch.randn(8, 4, 9, 7, generator=torch.Generator().manual_seed(2)) + 10_000


def train_twice(net: nn.Module, images: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Two passes in training mode (so that running statistics matter), gradients added up. Output, input gradient."""
    images = images.clone().requires_grad_()
    for _ in range(2):
        output = net(images)
        (output * weights).sum().backward()
    assert images.grad is not None
    return output.detach(), images.grad


def run(rank: int, folder: str) -> None:
    """Compute everything and write the results to a file."""
    with joined(rank, folder):
        results = {"parallel": _parallel(rank), "sum": _sum(rank), "far": _far(rank), "panet": _panet(rank)}
        torch.save(results | {name: _synced(shares[rank]) for name, shares in SHARES.items()}, f"{folder}/{rank}.pt")


def _synced(share: list[int]) -> dict[str, Any]:
    """One process's results on its share of the batch, its gradients summed over both processes."""
    net = synchronise_batch_norm(small_net(), CPU)
    images, weights = (tensor[share] for tensor in example())
    output, gradient = train_twice(net, images, weights)
    gradients = [parameter.grad for parameter in net.parameters() if parameter.grad is not None]
    for value in gradients:
        dist.all_reduce(value)
    return {"output": output, "input gradient": gradient, "gradients": gradients, "state": net.state_dict()}


def _parallel(rank: int) -> list[Tensor | None]:
    """The gradients that DistributedDataParallel computes of a mean over the process's share."""
    net = DistributedDataParallel(synchronise_batch_norm(small_net(), CPU), broadcast_buffers=False)
    images, weights = (tensor[SHARES["equal"][rank]] for tensor in example())
    (net(images) * weights).mean().backward()
    return [parameter.grad for parameter in net.parameters()]


def detector() -> PANet:
    """In training mode, without randomness."""
    torch.manual_seed(0)
    return PANet(variant="tiny", drop_rate=0.0, noise_std=0.0).double()


def detector_loss(model: nn.Module, share: list[int]) -> Tensor:
    """A mean over the images of a share; it depends on every output."""
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(8, 3, 64, 64, dtype=torch.float64, generator=generator)[share] * 2 - 1
    output = model(images)
    first = sum(embedding[:, 0].mean() for embedding in output.embeddings)
    return output.logits.square().mean() + (output.reconstruction - images).square().mean() + first


def _panet(rank: int) -> dict[str, Tensor]:
    """The detector's gradients, its batch normalisation synchronised."""
    model = detector()
    wrapped = DistributedDataParallel(synchronise_batch_norm(model, CPU), broadcast_buffers=False)
    detector_loss(wrapped, SHARES["equal"][rank]).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def _far(rank: int) -> tuple[Tensor, Tensor]:
    norm = synchronise_batch_norm(nn.BatchNorm2d(4, momentum=1.0), CPU)
    output = norm(far_example()[SHARES["equal"][rank]])
    return output.detach(), norm.state_dict()["running_var"]


def _sum(rank: int) -> tuple[Tensor, Tensor | None]:
    """A sum over the processes, and the gradient of (rank + 1) * sum^2."""
    values = torch.tensor([1.0, 2.0], dtype=torch.float64) * (rank + 1)
    values.requires_grad_()
    total = all_reduce_sum(values)
    (total.square().sum() * (rank + 1)).backward()
    return total.detach(), values.grad
