"""What each direction of EMAM launches through Triton, as JSON, without a GPU: `python -m tests.kernels.launches`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

if __name__ == "__main__":
    os.environ["TRITON_INTERPRET"] = "0"  # triton reads it when a kernel is decorated

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from panet_layers import EMAM
from panet_layers.ops.emam import fused
from panet_layers.ops.emam.tensors import Parameters
from tests.kernels.pretended_gpu import pretended_gpu


class Launches(TorchDispatchMode):
    """The names of torch's operations in a block that compute something: no views, no memory without values."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.__name__.split(".")[0]
        if "empty" not in name and name != "squeeze_" and not function.is_view:
            self.names.append(name)
        return function(*args, **(kwargs or {}))


def launched(direction: Callable[[], Sequence[Any]]) -> tuple[dict[str, list[str]], Sequence[Any]]:
    """Return the names of the kernels and of torch's operations, and what the direction returns."""
    kernels: list[str] = []
    with pretended_gpu(90, lambda launch: kernels.append(launch.function.__name__)), Launches() as operations:
        result = direction()
    return {"kernels": kernels, "torch": operations.names}, result


def main() -> int:
    """Print both directions for a float32 map in channels_last: nothing is converted."""
    layer = EMAM(16, 2)
    params = Parameters(*(p.detach() for p in layer.parameters()))
    x, grad = (torch.zeros(2, 16, 9, 7).to(memory_format=torch.channels_last) for _ in range(2))
    forward, (_, saved) = launched(lambda: fused.forward(x, params, layer.groups, layer.eps))
    backward, _ = launched(lambda: fused.backward(grad, x, params, saved, layer.groups))
    print(json.dumps({"forward": forward, "backward": backward}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
