"""What torch computes in a block, by the names of its operations."""

from __future__ import annotations

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class Operations(TorchDispatchMode):
    """The names of torch's operations in a block; `computing`: without views and memory without values."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.computing: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.__name__.split(".")[0]
        self.names.append(name)
        if "empty" not in name and name != "squeeze_" and not function.is_view:
            self.computing.append(name)
        return function(*args, **(kwargs or {}))
