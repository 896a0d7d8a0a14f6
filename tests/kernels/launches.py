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

from panet_layers import EMAM
from panet_layers.ops.emam import fused
from panet_layers.ops.emam.tensors import Parameters
from tests.kernels.operations import Operations
from tests.kernels.pretended_gpu import pretended_gpu


def launched(direction: Callable[[], Sequence[Any]]) -> tuple[dict[str, list[str]], Sequence[Any]]:
    """Return the names of the kernels and of torch's computing operations, and what the direction returns."""
    kernels: list[str] = []
    with pretended_gpu(90, lambda launch: kernels.append(launch.function.__name__)), Operations() as operations:
        result = direction()
    return {"kernels": kernels, "torch": operations.computing}, result


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
