"""Which models may be changed: modules that nothing outside knows by their parameters."""

from __future__ import annotations

from torch import nn

# Replicas and shards of the parameters that a model had when it was wrapped, which learn of no other.
_WRAPPERS = ("DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule", "DDP")


def check_model(model: nn.Module, task: str) -> None:
    """That it is a model, and not wrapped for distributed training. Raises TypeError and ValueError."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {model!r}")
    for name, module in model.named_modules():
        for kind in type(module).__mro__:
            if kind.__name__ in _WRAPPERS and kind.__module__.startswith("torch."):
                raise ValueError(
                    f"{f'module {name!r}' if name else 'the model'} is a {kind.__name__}, which goes on with the "
                    f"parameters that it was given; {task} first, wrap after"
                )
