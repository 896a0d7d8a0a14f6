"""Batch normalisation over the joined batch of all processes, also on CPUs, which torch's SyncBatchNorm refuses."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class _AllReduceSum(torch.autograd.Function):
    """The sum over all processes. Each output depends on every process's input, so gradients are summed too."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _AllReduceSum.forward(ctx, gradient)


all_reduce_sum = _AllReduceSum.apply


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` whose training statistics are those of the joined batch of all processes.

    Same parameters, buffers and state_dict keys. Processes may hold different numbers of images. Statistics are
    float32 or better, with the variance as the mean squared deviation from the global mean (two passes).
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or not self.track_running_stats:
            return super().forward(input)
        x = input if input.dtype == torch.float64 else input.float()
        dims = (0, 2, 3)
        sums = all_reduce_sum(torch.cat([x.sum(dims), x.new_tensor([x.numel() / x.shape[1]])]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = x - mean[:, None, None]
        variance = all_reduce_sum(centred.square().sum(dims)) / count
        self._track(mean.detach(), variance.detach(), float(count))

        scale = torch.rsqrt(variance + self.eps)
        if self.affine:
            scale = scale * self.weight
            return (centred * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)
        return (centred * scale[:, None, None]).to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: float) -> None:
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        momentum = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        unbiased = variance * (count / max(count - 1, 1))
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)


def synchronise_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """Replace every BatchNorm2d by a synchronised one: torch's on CUDA, ``SyncedBatchNorm2d`` on the CPU.

    Parameters, buffers and state_dict keys stay the same.
    """
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if type(model) is nn.BatchNorm2d:
        synced = SyncedBatchNorm2d(
            model.num_features, model.eps, model.momentum, model.affine, model.track_running_stats, device="meta"
        )
        synced._parameters, synced._buffers = model._parameters, model._buffers
        return synced.train(model.training)
    for name, child in model.named_children():
        setattr(model, name, synchronise_batch_norm(child, device))
    return model
