"""What the two processes of test_parallel_training.py do; in a file that imports little, so that they start fast."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint

from panet_layers import EMAM, SCAM, functional, use_backend
from tests.layers.hosts import build, images
from tests.processes import joined

LEARNING_RATE = 0.1


def network(name: str) -> nn.Module:
    """In float64 and eval mode: batch normalisation joins the images of a batch, and is tested with the detector."""
    return build(name, torch.float64)


def share(name: str, rank: int | None = None) -> Tensor:
    """Four images, or the two of a process."""
    whole = images(name, 4, 64, 64).double()
    return whole if rank is None else whole[2 * rank : 2 * rank + 2]


def loss(model: nn.Module, x: Tensor) -> Tensor:
    """A mean over images; every output contributes."""
    return sum((out - 0.1).square().mean() for out in pytree.tree_leaves(model(x)))


def checkpointed(model: nn.Module, reentrant: bool) -> nn.Module:
    """Attention layers that keep only their input and run again in the backward."""
    for module in model.modules():
        if isinstance(module, EMAM | SCAM):
            module.forward = partial(checkpoint, module.forward, use_reentrant=reentrant)
    return model


def data_parallel(model: nn.Module, x: Tensor, **options: bool) -> nn.Module:
    """One backward of DistributedDataParallel."""
    wrapped = DistributedDataParallel(model, **options)
    loss(wrapped, x).backward()
    return model


def accumulated(model: nn.Module, x: Tensor) -> nn.Module:
    """An image at a time, gradients exchanged with the last one only."""
    wrapped = DistributedDataParallel(model)
    for i, image in enumerate(x.split(1)):
        with wrapped.no_sync() if i + 1 < len(x) else nullcontext():
            (loss(wrapped, image) / len(x)).backward()
    return model


def sharded(model: nn.Module, x: Tensor, **options: bool) -> nn.Module:
    """One backward of FSDP2: each attention layer is a shard, the rest is another."""
    for module in model.modules():
        if isinstance(module, EMAM | SCAM):
            fully_shard(module, **options)
    fully_shard(model, **options)
    loss(model, x).backward()
    return model


def sharded_by_formulas(model: nn.Module, x: Tensor) -> nn.Module:
    """The papers' formulas end in a view, which residual blocks change in place; FSDP2 hooks it."""
    with use_backend("reference"):
        return sharded(model, x)


def sharded_and_accumulated(model: nn.Module, x: Tensor) -> nn.Module:
    fully_shard(model)
    for i, image in enumerate(x.split(1)):
        model.set_requires_gradient_sync(i + 1 == len(x))
        (loss(model, image) / len(x)).backward()
    return model


DDP: dict[str, Callable[[nn.Module, Tensor], nn.Module]] = {
    "ddp": data_parallel,
    "ddp, static graph": partial(data_parallel, static_graph=True),
    "ddp, unused parameters": partial(data_parallel, find_unused_parameters=True),
    "ddp, gradients as bucket views": partial(data_parallel, gradient_as_bucket_view=True),
    "ddp, accumulation": accumulated,
    "ddp, checkpointing": lambda model, x: data_parallel(checkpointed(model, reentrant=False), x),
    "ddp, reentrant checkpointing": lambda model, x: data_parallel(
        checkpointed(model, reentrant=True), x, static_graph=True
    ),
}
FSDP2: dict[str, Callable[[nn.Module, Tensor], nn.Module]] = {
    "fsdp2": sharded,
    "fsdp2, formulas": sharded_by_formulas,
    "fsdp2, unsharded until the backward": partial(sharded, reshard_after_forward=False),
    "fsdp2, accumulation": sharded_and_accumulated,
    "fsdp2, checkpointing": lambda model, x: sharded(checkpointed(model, reentrant=False), x),
}


def after_a_step(model: nn.Module) -> dict[str, Tensor]:
    """The gradients, and the parameters after a step of momentum SGD, whole again where they were sharded."""
    gradients = {f"grad {name}": whole(parameter.grad) for name, parameter in model.named_parameters()}
    torch.optim.SGD(model.parameters(), LEARNING_RATE, momentum=0.9).step()
    return gradients | {name: whole(parameter.detach()) for name, parameter in model.named_parameters()}


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor.clone()


WAYS = {"ddp": DDP, "fsdp2": FSDP2}


def run(rank: int, folder: str, name: str, kind: str) -> None:
    """Train a host in every way of this kind; the results in a file."""
    # The layers' own derivatives at any size; `collapsed` runs the formulas for small inputs.
    functional.SMALL_EMAM = functional.SMALL_SCAM = functional.Small(-1, -1)
    with joined(rank, folder):
        model, x = network(name), share(name, rank)
        results = {way: after_a_step(train(copy.deepcopy(model), x)) for way, train in WAYS[kind].items()}
        torch.save(results, f"{folder}/{rank}.pt")
