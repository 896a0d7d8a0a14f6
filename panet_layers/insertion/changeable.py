"""Whether a model may be changed: not once it is wrapped for distributed training."""

from __future__ import annotations

from torch import nn

from ..checks import check_module

# These hold replicas or shards of the parameters that the model had when it was wrapped; they never see later ones.
_WRAPPERS = ("DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule", "DDP")


def check_changeable(model: nn.Module, action: str) -> None:
    """Raise TypeError for anything but a module, ValueError for a model that is wrapped for distributed training.

    action: what the caller is about to do ("insert", "remove", "replace"), for the message.
    """
    check_module(model)
    for name, module in model.named_modules():
        for kind in type(module).__mro__:
            if kind.__name__ in _WRAPPERS and kind.__module__.startswith("torch."):
                raise ValueError(
                    f"{f'module {name!r}' if name else 'the model'} is a {kind.__name__}, which handles only the "
                    f"parameters that it was created with; {action} first, wrap after"
                )
